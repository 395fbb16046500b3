use super::super::frame::Decoder;
use super::*;

fn frame_of(bytes: &[u8]) -> Frame {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    decoder.next_frame().expect("valid").expect("whole")
}

fn hello() -> Hello {
    Hello { version: 1, digest: "ab".into(), dyno_id: "d".into(), nonce: "n".into(), pid: 7 }
}

/// A dyno-init of an older release lives on after an upgrade: these bytes may never change.
#[test]
fn what_goes_to_dyno_init_is_these_bytes() {
    let cases: Vec<(ToDynoInit, &[u8])> = vec![
        (
            ToDynoInit::Hello(hello()),
            b"\x3e\0\0\0\x01{\"version\":1,\"digest\":\"ab\",\"dyno_id\":\"d\",\"nonce\":\"n\",\"pid\":7}",
        ),
        (ToDynoInit::Environment([("A".into(), "b".into())].into()), b"\x0a\0\0\0\x02{\"A\":\"b\"}"),
        (ToDynoInit::Acknowledge(9), b"\x0f\0\0\0\x03{\"sequence\":9}"),
        (ToDynoInit::Signal(15), b"\x0e\0\0\0\x04{\"signal\":15}"),
        (ToDynoInit::Stop { grace_ms: 30 }, b"\x10\0\0\0\x05{\"grace_ms\":30}"),
        (ToDynoInit::Kill, b"\x01\0\0\0\x06"),
        (ToDynoInit::Stdin(b"x\n".to_vec()), b"\x03\0\0\0\x07x\n"),
        (ToDynoInit::CloseStdin, b"\x01\0\0\0\x08"),
        (ToDynoInit::Resize { rows: 2, columns: 3 }, b"\x17\0\0\0\x09{\"rows\":2,\"columns\":3}"),
        (ToDynoInit::Release, b"\x01\0\0\0\x0a"),
        (
            ToDynoInit::Exec {
                id: 3,
                order: Order {
                    environment: [("A".into(), "b".into())].into(),
                    command: Command::Shell("ls".into()),
                    terminal: Some(TerminalSize { rows: 2, columns: 9 }),
                },
            },
            b"\x66\0\0\0\x14{\"id\":3,\"order\":{\"environment\":{\"A\":\"b\"},\"command\":{\"shell\":\"ls\"},\
              \"terminal\":{\"rows\":2,\"columns\":9}}}",
        ),
        (ToDynoInit::ExecInput { id: 3, bytes: b"x".to_vec() }, b"\x06\0\0\0\x15\x03\0\0\0x"),
        (ToDynoInit::ExecCloseInput { id: 3 }, b"\x09\0\0\0\x16{\"id\":3}"),
        (
            ToDynoInit::ExecResize { id: 3, rows: 2, columns: 9 },
            b"\x1e\0\0\0\x17{\"id\":3,\"rows\":2,\"columns\":9}",
        ),
        (ToDynoInit::ExecSignal { id: 3, signal: 2 }, b"\x14\0\0\0\x18{\"id\":3,\"signal\":2}"),
        (ToDynoInit::ExecHangup { id: 3 }, b"\x09\0\0\0\x19{\"id\":3}"),
        (ToDynoInit::ExecOutputTaken { id: 3, bytes: 5 }, b"\x13\0\0\0\x1a{\"id\":3,\"bytes\":5}"),
        (ToDynoInit::Freeze { sleep_id: 7 }, b"\x0f\0\0\0\x28{\"sleep_id\":7}"),
        (ToDynoInit::Thaw { sleep_id: 7 }, b"\x0f\0\0\0\x29{\"sleep_id\":7}"),
    ];
    for (message, bytes) in cases {
        let mut encoded = Vec::new();
        message.encode(&mut encoded).expect("small");
        assert_eq!(encoded.escape_ascii().to_string(), bytes.escape_ascii().to_string());
        assert_eq!(ToDynoInit::decode(frame_of(bytes)).expect("decodes"), Some(message));
    }
}

#[test]
fn what_comes_from_dyno_init_is_these_bytes() {
    let cases: Vec<(FromDynoInit, &[u8])> = vec![
        (
            FromDynoInit::Hello(hello()),
            b"\x3e\0\0\0\x40{\"version\":1,\"digest\":\"ab\",\"dyno_id\":\"d\",\"nonce\":\"n\",\"pid\":7}",
        ),
        (FromDynoInit::Started, b"\x01\0\0\0\x41"),
        (FromDynoInit::Bound, b"\x01\0\0\0\x42"),
        (FromDynoInit::BoundLoopbackOnly, b"\x01\0\0\0\x43"),
        (FromDynoInit::BootTimeout, b"\x01\0\0\0\x44"),
        (
            FromDynoInit::Log { sequence: 1, at_us: 2, stream: 1, line: b"hi".to_vec() },
            b"\x14\0\0\0\x45\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01hi",
        ),
        (FromDynoInit::LogDropped { count: 4 }, b"\x0c\0\0\0\x46{\"count\":4}"),
        (FromDynoInit::Output(b"o".to_vec()), b"\x02\0\0\0\x47o"),
        (FromDynoInit::StopTimeout, b"\x01\0\0\0\x48"),
        (FromDynoInit::StartFailed { message: "m".into() }, b"\x10\0\0\0\x49{\"message\":\"m\"}"),
        (
            FromDynoInit::Exited { status: 143, at_us: 5, oom_killed: false },
            b"\x2c\0\0\0\x4a{\"status\":143,\"at_us\":5,\"oom_killed\":false}",
        ),
        (FromDynoInit::StdinConsumed { bytes: 6 }, b"\x0c\0\0\0\x4b{\"bytes\":6}"),
        (FromDynoInit::Frozen { sleep_id: 7 }, b"\x0f\0\0\0\x5a{\"sleep_id\":7}"),
        (FromDynoInit::Thawed { sleep_id: 7 }, b"\x0f\0\0\0\x5b{\"sleep_id\":7}"),
        (
            FromDynoInit::FreezeFailed { sleep_id: 7, reason: "r".into() },
            b"\x1c\0\0\0\x5c{\"sleep_id\":7,\"reason\":\"r\"}",
        ),
        (
            FromDynoInit::ExecOutput { id: 3, stream: 2, bytes: b"e".to_vec() },
            b"\x07\0\0\0\x54\x03\0\0\0\x02e",
        ),
        (FromDynoInit::ExecInputTaken { id: 3, bytes: 5 }, b"\x13\0\0\0\x55{\"id\":3,\"bytes\":5}"),
        (
            FromDynoInit::ExecEnded { id: 3, status: 1, failure: None },
            b"\x23\0\0\0\x56{\"id\":3,\"status\":1,\"failure\":null}",
        ),
    ];
    for (message, bytes) in cases {
        let mut encoded = Vec::new();
        message.encode(&mut encoded).expect("small");
        assert_eq!(encoded.escape_ascii().to_string(), bytes.escape_ascii().to_string());
        assert_eq!(FromDynoInit::decode(frame_of(bytes)).expect("decodes"), Some(message));
    }
}

#[test]
fn newer_peers_are_understood_and_broken_ones_are_not() {
    let newer = Frame { frame_type: 4, payload: b"{\"signal\":2,\"reason\":\"new field\"}".to_vec() };
    assert_eq!(ToDynoInit::decode(newer).expect("decodes"), Some(ToDynoInit::Signal(2)));
    let unknown = Frame { frame_type: 60, payload: b"?".to_vec() };
    assert_eq!(ToDynoInit::decode(unknown).expect("ignored"), None);
    for frame_type in [21, 84] {
        let headless = Frame { frame_type, payload: vec![0; 3] };
        assert!(ToDynoInit::decode(headless.clone()).is_err() || FromDynoInit::decode(headless).is_err());
    }
    let short = Frame { frame_type: LOG_FRAME_TYPE, payload: vec![0; LOG_HEAD_BYTES - 1] };
    assert!(FromDynoInit::decode(short).is_err());
    assert!(ToDynoInit::decode(Frame { frame_type: 3, payload: b"9".to_vec() }).is_err());
}
