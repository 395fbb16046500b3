//! The program beside every dyno. See `ferroku_runtime::dyno_init`.

fn main() -> std::process::ExitCode {
    ferroku_runtime::dyno_init::main()
}
