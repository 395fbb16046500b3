//! The program beside every dyno, and inside it. See `ferroku_runtime::dyno_init`.

fn main() -> std::process::ExitCode {
    ferroku_runtime::dyno_init::main()
}
