//! argv → exit code; everything else is in the library.

fn main() -> std::process::ExitCode {
    kube_vip::cli::main()
}
