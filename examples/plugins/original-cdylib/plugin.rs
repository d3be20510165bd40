//! A plugin as written for the Rust original: a cdylib of ABI version 1, here
//! without crates. Build it with
//!
//!     rustc --edition 2021 --crate-type cdylib -O -o libsample_cdylib.so plugin.rs

use std::ffi::c_char;

#[repr(C)]
pub struct Buf {
    ptr: *mut u8,
    len: usize,
    cap: usize,
}

#[repr(C)]
pub struct VTable {
    abi_version: u32,
    name: *const c_char,
    call: unsafe extern "C" fn(*const u8, usize, *const u8, usize, *mut Buf) -> i32,
    free_buf: unsafe extern "C" fn(Buf),
}

// The table holds only constants.
unsafe impl Sync for VTable {}

/// The host's bytes; a pointer of length 0 may be null, which Rust slices may not be.
unsafe fn bytes<'a>(ptr: *const u8, len: usize) -> &'a [u8] {
    if len == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(ptr, len)
    }
}

fn answer(method: &[u8], payload: &[u8]) -> Result<Vec<u8>, String> {
    match method {
        b"echo" => Ok(payload.to_vec()),
        b"reverse" => Ok(payload.iter().rev().copied().collect()),
        b"panic" => panic!("as asked"),
        other => Err(format!("no method {}", String::from_utf8_lossy(other))),
    }
}

unsafe extern "C" fn call(m: *const u8, ml: usize, p: *const u8, pl: usize, out: *mut Buf) -> i32 {
    // A panic must not cross the border of the language.
    let result = std::panic::catch_unwind(|| answer(bytes(m, ml), bytes(p, pl)));
    let (rc, mut data) = match result {
        Ok(Ok(data)) => (0, data),
        Ok(Err(text)) => (1, text.into_bytes()),
        Err(_) => (2, b"the plugin panicked".to_vec()),
    };
    (*out).ptr = data.as_mut_ptr();
    (*out).len = data.len();
    (*out).cap = data.capacity();
    std::mem::forget(data);
    rc
}

unsafe extern "C" fn free_buf(b: Buf) {
    drop(Vec::from_raw_parts(b.ptr, b.len, b.cap));
}

static TABLE: VTable = VTable {
    abi_version: 1,
    name: b"sample-cdylib\0".as_ptr() as *const c_char,
    call,
    free_buf,
};

#[no_mangle]
pub extern "C" fn rollout_plugin_factory() -> *const VTable {
    &TABLE
}
