//! Binds a thread to a processor
#![allow(unsafe_code, reason = "a call of the operating system")]

/// Binds the current thread to one processor. Not being allowed to is no reason not to measure.
pub fn bind_to(core: usize) {
    // SAFETY: a set of processors is plain bits, all zero is a valid one, `core` is checked to be inside by `CPU_SET`, and
    // the call only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if core < 8 * size_of::<libc::cpu_set_t>() {
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
    }
}
