//! The program that makes a dyno's container. See `ferroku_runtime::dyno_init`.

fn main() -> std::process::ExitCode {
    ferroku_runtime::dyno_init::create_main()
}
