//! The `ringpost` binary: hands the arguments to `cli::run` and exits with its code.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ringpost::cli::run(std::env::args_os())
}
