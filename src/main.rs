//! The `hifz` program: arguments to [`hifz::server`], its answer to an exit code.

fn main() -> std::process::ExitCode {
    hifz::server::main()
}
