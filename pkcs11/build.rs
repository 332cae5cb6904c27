//! How the module is linked.

fn main() {
    // Libraries below leave destructors for the memory of each thread behind, which run when a thread ends. A module that is
    // unloaded by then would take their code with it, and the process would crash. So it stays in memory after `dlclose`; the next `dlopen` finds it there.
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
