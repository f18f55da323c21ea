//! The binary `culvert`: everything is in the library, so that tests can reach it.

fn main() -> std::process::ExitCode {
    culvert::cli::main()
}
