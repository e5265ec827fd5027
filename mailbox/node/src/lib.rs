//! The mailbox as a native module of Node.js, with the functions `open()`, `give(failed, headers,
//! body)`, `takeBack()`, `next()` and `event()`. It only uses Node-API, whose binary interface is the
//! same in every version of Node.js.
//!
//! Headers and body are passed as strings: the runtime client that uses this module has JSON in
//! strings.

use std::cell::RefCell;
use std::ffi::CStr;
use std::ptr;

use hearth_mailbox::{Answered, Kind, Mailbox};
use napi_sys::{
    napi_callback, napi_callback_info, napi_create_array_with_length, napi_create_function,
    napi_create_string_utf8, napi_create_uint32, napi_env, napi_get_boolean, napi_get_cb_info,
    napi_get_value_bool, napi_get_value_string_utf8, napi_set_element, napi_set_named_property,
    napi_throw_error, napi_value,
};

/// Results of `next()`; see `mailbox/include/hearth_mailbox.h`.
const NOT_HERE: u32 = 0;
const AGENT: u32 = 1;
const EVENT: u32 = 2;
const CLOCK: u32 = 3;

thread_local! {
    /// Node.js calls a module on one thread. A worker thread that loads this module has no mailbox.
    static MAILBOX: RefCell<Option<Open>> = const { RefCell::new(None) };
}

struct Open {
    mailbox: Mailbox,
    /// Lengths of the event in the mailbox.
    meta: usize,
    body: usize,
}

/// A call of Node-API has failed. [`throw`] reports it to JavaScript.
#[derive(Debug)]
struct Failed;

fn done(status: napi_sys::napi_status) -> Result<(), Failed> {
    if status == napi_sys::Status::napi_ok {
        Ok(())
    } else {
        Err(Failed)
    }
}

/// `open()`: opens the mailbox; returns whether the process has one.
unsafe extern "C" fn open(env: napi_env, _: napi_callback_info) -> napi_value {
    let opened = MAILBOX.with_borrow_mut(|open| {
        *open = Mailbox::open().map(|mailbox| Open {
            mailbox,
            meta: 0,
            body: 0,
        });
        open.is_some()
    });
    boolean(env, opened)
}

/// `give(failed, headers, body)`: answers without waiting; returns whether the mailbox has taken the
/// answer.
unsafe extern "C" fn give(env: napi_env, info: napi_callback_info) -> napi_value {
    // SAFETY: both are the caller's.
    match unsafe { try_give(env, info) } {
        Ok(value) => value,
        Err(Failed) => throw(env),
    }
}

unsafe fn try_give(env: napi_env, info: napi_callback_info) -> Result<napi_value, Failed> {
    let mut arguments = [ptr::null_mut(); 3];
    let mut count = arguments.len();
    let mut failed = false;
    // SAFETY: `env` and `info` are the caller's, everything else is a local of the right size.
    let (meta, body) = unsafe {
        done(napi_get_cb_info(
            env,
            info,
            &raw mut count,
            arguments.as_mut_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
        ))?;
        done(napi_get_value_bool(env, arguments[0], &raw mut failed))?;
        (text(env, arguments[1])?, text(env, arguments[2])?)
    };
    let kind = if failed { Kind::Error } else { Kind::Response };
    Ok(boolean(
        env,
        with_mailbox(|mailbox| mailbox.give(kind, &meta, &body)),
    ))
}

/// `takeBack()`: whether the answer that was given had not left yet. It is the caller's to post then.
unsafe extern "C" fn take_back(env: napi_env, _: napi_callback_info) -> napi_value {
    boolean(env, with_mailbox(Mailbox::take_back))
}

/// Without a mailbox: `false`.
fn with_mailbox(call: impl FnOnce(&mut Mailbox) -> bool) -> bool {
    MAILBOX.with_borrow_mut(|open| open.as_mut().is_some_and(|open| call(&mut open.mailbox)))
}

fn boolean(env: napi_env, value: bool) -> napi_value {
    let mut result = ptr::null_mut();
    // SAFETY: `env` is the caller's; the result is a local.
    unsafe { napi_get_boolean(env, value, &raw mut result) };
    result
}

/// `next()`: sends the answer that was given, and waits; returns the result as a number.
unsafe extern "C" fn next(env: napi_env, _: napi_callback_info) -> napi_value {
    let outcome = MAILBOX.with_borrow_mut(|open| {
        let Some(open) = open else {
            return NOT_HERE;
        };
        match open.mailbox.await_event() {
            Answered::NotHere => NOT_HERE,
            Answered::Agent => AGENT,
            Answered::Event {
                meta,
                body,
                clock_is_off,
            } => {
                (open.meta, open.body) = (meta, body);
                if clock_is_off { CLOCK } else { EVENT }
            }
        }
    });
    let mut value = ptr::null_mut();
    // SAFETY: as above.
    match done(unsafe { napi_create_uint32(env, outcome, &raw mut value) }) {
        Ok(()) => value,
        Err(Failed) => throw(env),
    }
}

/// `event()`: returns the event's headers and its body, as two strings.
unsafe extern "C" fn event(env: napi_env, _: napi_callback_info) -> napi_value {
    let (meta, body) = MAILBOX.with_borrow_mut(|open| {
        let Some(open) = open else {
            return (Vec::new(), Vec::new());
        };
        let (mut meta, mut body) = (vec![0; open.meta], vec![0; open.body]);
        open.mailbox.take(&mut meta, &mut body);
        (open.meta, open.body) = (0, 0);
        (meta, body)
    });
    // SAFETY: `env` is the caller's.
    match unsafe { pair(env, &meta, &body) } {
        Ok(value) => value,
        Err(Failed) => throw(env),
    }
}

unsafe fn pair(env: napi_env, meta: &[u8], body: &[u8]) -> Result<napi_value, Failed> {
    let mut array = ptr::null_mut();
    // SAFETY: `env` is the caller's, the texts have the given lengths.
    unsafe {
        done(napi_create_array_with_length(env, 2, &raw mut array))?;
        for (n, bytes) in (0..).zip([meta, body]) {
            let mut string = ptr::null_mut();
            let len = isize::try_from(bytes.len()).map_err(|_| Failed)?;
            let at = bytes.as_ptr().cast();
            done(napi_create_string_utf8(env, at, len, &raw mut string))?;
            done(napi_set_element(env, array, n, string))?;
        }
    }
    Ok(array)
}

/// Copies a JavaScript string as UTF-8.
unsafe fn text(env: napi_env, value: napi_value) -> Result<Vec<u8>, Failed> {
    let mut len = 0;
    // SAFETY: without a buffer, the call only returns the length.
    done(unsafe { napi_get_value_string_utf8(env, value, ptr::null_mut(), 0, &raw mut len) })?;
    // One byte more, for the NUL at the end.
    let mut bytes = vec![0u8; len + 1];
    let room = bytes.len();
    // SAFETY: the buffer has that length.
    done(unsafe {
        napi_get_value_string_utf8(env, value, bytes.as_mut_ptr().cast(), room, &raw mut len)
    })?;
    bytes.truncate(len);
    Ok(bytes)
}

fn throw(env: napi_env) -> napi_value {
    // SAFETY: `env` is the caller's, the texts end with NUL.
    unsafe {
        napi_throw_error(
            env,
            ptr::null(),
            c"invalid arguments for the mailbox".as_ptr(),
        )
    };
    ptr::null_mut()
}

/// The function that Node.js calls when it loads the module.
///
/// # Safety
/// Only Node.js may call it, with its own environment.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn napi_register_module_v1(env: napi_env, exports: napi_value) -> napi_value {
    let functions: [(&CStr, napi_callback); 5] = [
        (c"open", Some(open)),
        (c"give", Some(give)),
        (c"takeBack", Some(take_back)),
        (c"next", Some(next)),
        (c"event", Some(event)),
    ];
    for (name, function) in functions {
        let mut value = ptr::null_mut();
        // SAFETY: `env` and `exports` are the caller's, names end with NUL.
        unsafe {
            let (name, auto) = (name.as_ptr(), -1);
            napi_create_function(env, name, auto, function, ptr::null_mut(), &raw mut value);
            napi_set_named_property(env, exports, name, value);
        }
    }
    exports
}

/// The version of Node-API that this module needs.
#[unsafe(no_mangle)]
pub extern "C" fn node_api_module_get_api_version_v1() -> i32 {
    8
}
