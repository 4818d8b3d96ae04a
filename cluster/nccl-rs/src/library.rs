//! The C side: opening the library and its function pointers. The only file of this crate with `unsafe`.

use std::ffi::{CStr, c_char, c_int};
use std::mem::ManuallyDrop;
use std::path::Path;

use libloading::os::unix::{Library as Opened, RTLD_LOCAL, RTLD_NOW, Symbol};

use crate::{NcclError, UniqueId};

type GetVersion = unsafe extern "C" fn(*mut c_int) -> u32;
type GetUniqueId = unsafe extern "C" fn(*mut u8) -> u32;
type GetErrorString = unsafe extern "C" fn(u32) -> *const c_char;

/// The functions of an opened NCCL.
#[derive(Debug)]
pub(crate) struct Library {
    get_version: Symbol<GetVersion>,
    get_unique_id: Symbol<GetUniqueId>,
    get_error_string: Symbol<GetErrorString>,
    // Declared last and never dropped: NCCL keeps threads of its own, so its code must stay mapped.
    _opened: ManuallyDrop<Opened>,
}

/// Opens a shared library by path or soname. The error is the loader's reason, which begins with the path.
pub(crate) fn open(path: &Path) -> Result<Opened, String> {
    // SAFETY: NCCL's initialisers only set up static data, and the library is never unloaded.
    let opened = unsafe { Opened::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    // libloading keeps the loader's own words in the error's source.
    opened.map_err(|error| std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
}

impl Library {
    /// Looks every function up, so that a later call cannot find one missing.
    pub(crate) fn from_opened(opened: Opened, path: &Path) -> Result<Self, NcclError> {
        Ok(Self {
            get_version: symbol(&opened, path, "ncclGetVersion")?,
            get_unique_id: symbol(&opened, path, "ncclGetUniqueId")?,
            get_error_string: symbol(&opened, path, "ncclGetErrorString")?,
            _opened: ManuallyDrop::new(opened),
        })
    }

    /// `ncclGetVersion`; returns the result code.
    pub(crate) fn get_version(&self, version: &mut u32) -> u32 {
        let mut raw: c_int = 0;
        // SAFETY: ncclGetVersion writes one int to the address it is given.
        let code = unsafe { (self.get_version)(&mut raw) };
        *version = u32::try_from(raw).unwrap_or(0);
        code
    }

    /// `ncclGetUniqueId`; returns the result code.
    pub(crate) fn get_unique_id(&self, id: &mut [u8; UniqueId::BYTES]) -> u32 {
        // SAFETY: ncclGetUniqueId writes NCCL_UNIQUE_ID_BYTES = 128 bytes, the array's size, without alignment needs.
        unsafe { (self.get_unique_id)(id.as_mut_ptr()) }
    }

    /// `ncclGetErrorString`.
    pub(crate) fn error_string(&self, code: u32) -> String {
        // SAFETY: the function takes any code by value and returns a static string, or null.
        let text = unsafe { (self.get_error_string)(code) };
        if text.is_null() {
            return format!("unknown NCCL result {code}");
        }
        // SAFETY: not null, and NCCL's error strings are NUL-terminated literals.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_string_lossy().into_owned()
    }
}

fn symbol<T>(opened: &Opened, path: &Path, name: &'static str) -> Result<Symbol<T>, NcclError> {
    // SAFETY: each caller asks for the type that nccl.h declares for this name (`ncclResult_t` is a C enum
    // of unsigned size, read as u32), and `Opened` is never dropped, so the symbol stays valid.
    let found = unsafe { opened.get(name.as_bytes()) };
    found.map_err(|_| NcclError::MissingSymbol { path: path.to_path_buf(), symbol: name })
}
