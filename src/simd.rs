//! Which vector instructions the kernels may use.
//!
//! The environment variable `EVLIB_SIMD` (`scalar`, `avx2`, `avx512`) lowers the choice, never raises it over what
//! the processor has. The scalar path is the definition; tests compare the others with it.
#![expect(unsafe_code, reason = "functions for instruction sets that are detected at run time")]

use std::sync::LazyLock;

/// Instruction sets, each containing those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Scalar,
    Avx2,
    Avx512,
}

static LEVEL: LazyLock<Level> = LazyLock::new(|| {
    let wanted = match std::env::var("EVLIB_SIMD").as_deref() {
        Ok("scalar") => Level::Scalar,
        Ok("avx2") => Level::Avx2,
        _ => Level::Avx512,
    };
    wanted.min(detect())
});

/// The instruction set to use.
#[inline]
pub(crate) fn level() -> Level {
    *LEVEL
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bitalg")
        && is_x86_feature_detected!("avx512vbmi2");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Scalar,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Scalar
}

/// A kernel: plain loops that the compiler vectorises for the instruction set it is run with.
///
/// A trait and not a closure, because only a method can be marked to be inlined always, and only what is inlined into
/// the functions below is compiled for their instruction sets.
pub(crate) trait Kernel {
    type Output;

    /// Implementations are `#[inline(always)]`, and so is all that they call in their loops.
    fn run(self) -> Self::Output;
}

/// Runs `kernel`, compiled for the best instruction set that may be used.
#[inline(always)]
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY: `level` is at most what `detect` found, and `detect` has checked each feature named here.
        Level::Avx512 => return unsafe { with_avx512(kernel) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { with_avx2(kernel) },
        Level::Scalar => {}
    }
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512bitalg,avx512vbmi2")]
fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}
