//! How the module is linked.

fn main() {
    // AWS-LC keeps memory for each thread, and never gives the key of it (`pthread_key_create`) back, of which a process has 1024;
    // and what frees that memory runs when a thread ends, be its code still there or not. So the module stays in memory after
    // `dlclose`, and the next `dlopen` finds it there.
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
