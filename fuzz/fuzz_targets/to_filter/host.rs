//! The functions of the proxy-wasm host that messages lead to, for a filter outside of Envoy. It has a clock that stands,
//! metrics that nobody reads, and no shared data.

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;

#[unsafe(no_mangle)]
extern "C" fn proxy_log(_level: u32, _message: *const u8, _size: usize) -> u32 {
    OK
}

#[unsafe(no_mangle)]
extern "C" fn proxy_get_current_time_nanoseconds(time: &mut u64) -> u32 {
    *time = 1_700_000_000_000_000_000;
    OK
}

#[unsafe(no_mangle)]
extern "C" fn proxy_define_metric(_kind: u32, _name: *const u8, _size: usize, id: &mut u32) -> u32 {
    *id = 1;
    OK
}

#[unsafe(no_mangle)]
extern "C" fn proxy_increment_metric(_id: u32, _amount: i64) -> u32 {
    OK
}

#[unsafe(no_mangle)]
extern "C" fn proxy_get_metric(_id: u32, value: &mut u64) -> u32 {
    *value = 0;
    OK
}

#[unsafe(no_mangle)]
extern "C" fn proxy_get_shared_data(
    _key: *const u8,
    _key_size: usize,
    _value: *mut *mut u8,
    _value_size: *mut usize,
    _version: *mut u32,
) -> u32 {
    NOT_FOUND
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_shared_data(
    _key: *const u8,
    _key_size: usize,
    _value: *const u8,
    _value_size: usize,
    _version: u32,
) -> u32 {
    OK
}
