//! Pushes that no table of command lines can hold: two at once, and onto a full disk.

use ferroku_testkit::{NodeOptions, TestNode};
use std::fs;

fn releases(node: &TestNode, app: &str) -> Vec<String> {
    let line = format!(
        "heroku releases --json -a {app} | python3 -c 'import json,sys; [print(r[\"version\"], r[\"status\"]) for r in json.load(sys.stdin)]'"
    );
    node.run_unchecked(&line).succeeded().text.lines().map(str::to_owned).collect()
}

#[test]
fn of_two_pushes_at_once_each_happens_whole_or_not_at_all() {
    let node = TestNode::start();
    node.make_app("twice");
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

/// Above what a node keeps free for running apps before it takes a push, and quickly filled.
const DISK_BYTES: u64 = 768 << 20;

/// Fills the disk that the build folder is on, as its only step.
const GREEDY: &str = r#"
for step in detect compile release; do echo '#!/bin/bash' >"$PACK/bin/$step"; chmod 755 "$PACK/bin/$step"; done
echo 'echo Greedy' >>"$PACK/bin/detect"
echo 'echo "-----> Filling the disk"; exec dd if=/dev/zero of="$1/filler" bs=1M count=2000 2>&1' >>"$PACK/bin/compile"
"#;

#[test]
fn a_push_onto_a_full_disk_is_refused_and_nothing_is_lost() {
    let node = TestNode::start_with(NodeOptions { disk_bytes: Some(DISK_BYTES), ..NodeOptions::default() });
    let disk = node.disk.as_ref().expect("asked for");
    node.make_app("full");
    node.run("cd full && git push heroku main").succeeded();
    let status = "curl -s -m 10 -o /dev/null -w '%{http_code}' -H 'Host: full.localhost' http://127.0.0.1:$ROUTER_PORT/";
    node.wait_for("the app's first answer", || node.run_unchecked(status).text == "200");
    let before = releases(&node, "full");
    let push = "cd full && git commit -q --allow-empty -m more && git push heroku main";

    disk.fill(0);
    let output = node.run_unchecked(push);
    assert_ne!(output.status, 0, "{}", output.text);
    assert!(output.text.contains("The node's disk is full"), "{}", output.text);
    assert_eq!(node.run_unchecked(status).text, "200", "the release before goes on");
    node.run("heroku apps").succeeded();
    disk.empty();

    let pack = node.data.join("buildpacks/greedy");
    fs::create_dir_all(pack.join("bin")).expect("the node's own folder");
    let pack = pack.display();
    node.run(&format!("PACK={pack}; {GREEDY}\nheroku buildpacks:set file://{pack} -a full")).succeeded();
    let output = node.run_unchecked(push);
    assert_ne!(output.status, 0, "{}", output.text);
    assert!(output.text.contains("Filling the disk"), "the build ran:\n{}", output.text);
    assert!(output.text.contains("The node's disk is full"), "{}", output.text);
    assert_eq!(node.run_unchecked(status).text, "200", "the release before goes on");

    assert_eq!(releases(&node, "full"), before, "what was acknowledged is there, and nothing else");
    node.run("heroku buildpacks:clear -a full && cd full && git push heroku main").succeeded();
    assert_eq!(releases(&node, "full").len(), before.len() + 1);
    node.run("heroku config:set AFTER=wards -a full").succeeded();
    node.stop();
}
