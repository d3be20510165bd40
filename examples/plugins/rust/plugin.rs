//! A plugin in Rust on ABI version 2, with plain rustc and no crates. Build it with
//!
//!     rustc --edition 2021 --crate-type cdylib -O -o libhistogram.so plugin.rs
//!
//! The types are those of include/rollout_plugin.h.

use std::ffi::c_char;
use std::sync::atomic::{AtomicUsize, Ordering};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buf {
    ptr: *mut u8,
    len: usize,
    cap: usize,
}

#[repr(C)]
pub struct Slice {
    ptr: *const u8,
    len: usize,
}

#[repr(C)]
pub struct Outcome {
    buf: Buf,
    code: u32,
    retry: u32,
    retry_ms: u64,
    retry_max_ms: u64,
    reserved: [u64; 2],
}

type Call = unsafe extern "C" fn(*const u8, usize, *const u8, usize, *mut Outcome) -> i32;

#[repr(C)]
pub struct Plugin {
    abi_version: u32,
    struct_size: u32,
    name: *const c_char,
    version: *const c_char,
    flags: u64,
    init: Option<unsafe extern "C" fn(*const u8, usize, *mut Outcome) -> i32>,
    preflight: Option<unsafe extern "C" fn(*mut Outcome) -> i32>,
    call: Call,
    call_batch: Option<unsafe extern "C" fn(*const u8, usize, *const Slice, usize, *mut Outcome) -> i32>,
    shutdown: Option<unsafe extern "C" fn()>,
    free_buf: unsafe extern "C" fn(Buf),
}

// The table holds only constants.
unsafe impl Sync for Plugin {}

const THREAD_SAFE: u64 = 1;
const UNKNOWN_METHOD: u32 = 6;
const PLUGIN_ERROR: u32 = 28;

static CALLS: AtomicUsize = AtomicUsize::new(0);

/// Counts how often each letter of a text occurs, as "a=2 b=1".
fn histogram(text: &[u8]) -> Vec<u8> {
    let mut counts = [0usize; 26];
    for b in text.iter().filter(|b| b.is_ascii_alphabetic()) {
        counts[(b.to_ascii_lowercase() - b'a') as usize] += 1;
    }
    let parts: Vec<String> = (0..26)
        .filter(|&i| counts[i] > 0)
        .map(|i| format!("{}={}", (b'a' + i as u8) as char, counts[i]))
        .collect();
    parts.join(" ").into_bytes()
}

fn answer(method: &[u8], payload: &[u8]) -> Result<Vec<u8>, (u32, String)> {
    CALLS.fetch_add(1, Ordering::Relaxed);
    match method {
        b"histogram" => Ok(histogram(payload)),
        b"echo" => Ok(payload.to_vec()),
        b"calls" => Ok(CALLS.load(Ordering::Relaxed).to_string().into_bytes()),
        other => Err((UNKNOWN_METHOD, format!("no method {}", String::from_utf8_lossy(other)))),
    }
}

/// The host's bytes; a pointer of length 0 may be null, which Rust slices may not be.
unsafe fn bytes<'a>(ptr: *const u8, len: usize) -> &'a [u8] {
    if len == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(ptr, len)
    }
}

fn give(mut data: Vec<u8>) -> Buf {
    let buf = Buf { ptr: data.as_mut_ptr(), len: data.len(), cap: data.capacity() };
    std::mem::forget(data);
    buf
}

/// Fills in one outcome; a panic must not cross the border of the language.
unsafe fn fill(method: &[u8], payload: &[u8], out: &mut Outcome) -> i32 {
    match std::panic::catch_unwind(|| answer(method, payload)) {
        Ok(Ok(data)) => {
            out.buf = give(data);
            return 0;
        }
        Ok(Err((code, text))) => {
            out.code = code;
            out.buf = give(text.into_bytes());
        }
        Err(_) => {
            out.code = PLUGIN_ERROR;
            out.buf = give(b"the plugin panicked".to_vec());
        }
    }
    1
}

unsafe extern "C" fn call(m: *const u8, ml: usize, p: *const u8, pl: usize, out: *mut Outcome) -> i32 {
    fill(bytes(m, ml), bytes(p, pl), &mut *out)
}

unsafe extern "C" fn call_batch(m: *const u8, ml: usize, p: *const Slice, n: usize, outs: *mut Outcome) -> i32 {
    for i in 0..n {
        let one = &*p.add(i);
        fill(bytes(m, ml), bytes(one.ptr, one.len), &mut *outs.add(i));
    }
    0
}

unsafe extern "C" fn preflight(out: *mut Outcome) -> i32 {
    if histogram(b"Abba") == b"a=2 b=2" {
        return 0;
    }
    (*out).buf = give(b"the histogram is wrong".to_vec());
    1
}

unsafe extern "C" fn free_buf(b: Buf) {
    drop(Vec::from_raw_parts(b.ptr, b.len, b.cap));
}

static PLUGIN: Plugin = Plugin {
    abi_version: 2,
    struct_size: std::mem::size_of::<Plugin>() as u32,
    name: b"histogram\0".as_ptr() as *const c_char,
    version: b"0.1.0\0".as_ptr() as *const c_char,
    flags: THREAD_SAFE,
    init: None,
    preflight: Some(preflight),
    call,
    call_batch: Some(call_batch),
    shutdown: None,
    free_buf,
};

#[no_mangle]
pub extern "C" fn rollout_plugin_factory() -> *const Plugin {
    &PLUGIN
}
