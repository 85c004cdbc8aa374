//! Tells the program for which target it is built. Its revision comes from who builds a release, as `KUBE_VIP_REVISION`
//! (scripts/build-static): asking git here would compile everything again after each commit.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=KUBE_VIP_TARGET={}", std::env::var("TARGET").unwrap_or_default());
}
