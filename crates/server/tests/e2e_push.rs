//! Two pushes at once, which no table of command lines can hold.

use ferroku_testkit::TestNode;
use std::fs;

fn make_app(node: &TestNode, name: &str) {
    node.run(&format!("heroku create {name} --no-remote")).succeeded();
    node.run(&format!(
        "cp -r \"$EXAMPLES/procfile-only\" {name} && cd {name} && git init -q -b main && git add . && \
         git commit -qm first && heroku git:remote -a {name}"
    ))
    .succeeded();
}

fn releases(node: &TestNode, app: &str) -> Vec<String> {
    let line = format!(
        "heroku releases --json -a {app} | python3 -c 'import json,sys; [print(r[\"version\"], r[\"status\"]) for r in json.load(sys.stdin)]'"
    );
    node.run_unchecked(&line).succeeded().text.lines().map(str::to_owned).collect()
}

#[test]
fn of_two_pushes_at_once_each_happens_whole_or_not_at_all() {
    let node = TestNode::start();
    make_app(&node, "twice");
    node.run("cp -r twice other && cd other && git commit -q --allow-empty -m other").succeeded();
    let output = node
        .run("(cd twice && git push heroku main >../one 2>&1; echo $? >../one.status) & \
              (cd other && git push -f heroku main >../two 2>&1; echo $? >../two.status) & wait; cat one.status two.status")
        .text;
    let pushed = output.lines().filter(|status| *status == "0").count();
    let read = |name: &str| fs::read_to_string(node.work.join(name)).unwrap_or_default();
    let both = format!("{}\n---\n{}", read("one"), read("two"));
    assert!((1..=2).contains(&pushed), "{both}");
    let versions = releases(&node, "twice");
    assert_eq!(
        versions.len(),
        2 + pushed,
        "each push that succeeded made one release:\n{versions:?}\n{both}"
    );
    assert!(versions.iter().all(|line| line.ends_with("succeeded")), "{versions:?}");
    let head = node.run("git -C twice ls-remote heroku refs/heads/main | cut -f1").succeeded().text;
    let known = node.run("git -C twice rev-parse main; git -C other rev-parse main").succeeded().text;
    assert!(
        known.contains(head.trim()) && !head.trim().is_empty(),
        "main is one of the two: {head} of {known}"
    );
    node.stop();
}
