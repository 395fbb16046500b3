//! The example apps of all languages, pushed to one node, called, changed by a line and pushed again.

use ferroku_testkit::TestNode;

/// One example, as a person tries it.
struct Example {
    name: &'static str,
    /// Printed by the first push, after `remote: `.
    detected: &'static str,
    path: &'static str,
    /// Part of the first answer.
    answer: &'static str,
    /// sed program, file and what the answer is to have afterwards.
    change: (&'static str, &'static str, &'static str),
    /// Printed by the second push: its dependencies cost nothing.
    reused: &'static str,
    /// Spare tree that the second push takes; waited for.
    spare: Option<&'static str>,
}

const EXAMPLES: [Example; 3] = [
    Example {
        name: "node",
        detected: "-----> Node.js app detected",
        path: "/visits",
        answer: "\"environment\":\"production\"",
        change: ("s/'Hello'/'Changed'/", "server.js", "\"greeting\":\"Changed\""),
        reused: "       package-lock.json has not changed: all packages are taken from the last build.",
        spare: Some("node"),
    },
    Example {
        name: "go",
        detected: "-----> Go app detected",
        path: "/",
        answer: "\"greeting\":\"Hello\"",
        change: ("s/Hello/Changed/", "main.go", "\"greeting\":\"Changed\""),
        reused: "       example.com/hello",
        spare: None,
    },
    Example {
        name: "static",
        detected: "-----> Static HTML app detected",
        path: "/news",
        answer: "<h1>News</h1>",
        change: ("s/h1>News/h1>Changed/", "public/news.html", "<h1>Changed"),
        reused: "       The files of public are served as they are, by static.json.",
        spare: None,
    },
];

impl Example {
    fn app(&self) -> String {
        format!("{}-example", self.name)
    }
}

#[test]
fn every_example_is_pushed_called_changed_and_pushed_again() {
    let node = TestNode::start();
    for example in &EXAMPLES {
        let (name, app) = (example.name, example.app());
        assert_eq!(node.call("POST", "/apps", &format!(r#"{{"name":"{app}"}}"#)).0, 201);
        // Of the Node.js example; the others do not look at it.
        let reuse = r#"{"NODE_MODULES_REUSE":"true"}"#;
        assert_eq!(node.call("PATCH", &format!("/apps/{app}/config-vars"), reuse).0, 200);
        let first = node
            .run_unchecked(&format!(
                "cp -r \"$EXAMPLES/{name}\" {name} && cd {name} && git init -q -b main && git add . && git commit -qm first && \
                 heroku git:remote -a {app} && git push heroku main"
            ))
            .succeeded();
        assert!(printed(&first.text, example.detected), "{}", first.text);
        answers(&node, example, example.answer);
        if let Some(spare) = example.spare {
            let spares = node.data.join("spares");
            node.wait_for("the packages to be kept for the next push", || {
                std::fs::read_dir(&spares)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .any(|app| app.path().join("tree").join(spare).is_dir())
            });
        }
        let (change, file, changed) = example.change;
        let second = node
            .run_unchecked(&format!(
                "cd {name} && sed -i \"{change}\" {file} && git commit -qam second && git push heroku main"
            ))
            .succeeded();
        assert!(printed(&second.text, example.reused), "{}", second.text);
        answers(&node, example, changed);
        node.run(&format!("heroku ps:scale web=0 -a {app}")).succeeded();
    }
    node.stop();
}

/// Whether git showed this line of the build; it pads lines with spaces.
fn printed(text: &str, line: &str) -> bool {
    text.lines().any(|shown| shown.strip_prefix("remote: ").is_some_and(|shown| shown.trim_end() == line))
}

fn answers(node: &TestNode, example: &Example, expected: &str) {
    let ask = format!(
        "curl -s -m 10 -H 'Host: {}.localhost' http://127.0.0.1:$ROUTER_PORT{}",
        example.app(),
        example.path
    );
    node.wait_for(&format!("{expected} from {}", example.name), || {
        node.run_unchecked(&ask).text.contains(expected)
    });
}
