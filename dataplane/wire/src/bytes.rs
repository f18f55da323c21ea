//! Big-endian reads and writes at offsets.
//!
//! In: slices and offsets. Out: integers, or `None` past the end; arrays of a proven size.
//! Never: a panic.

/// The `N` bytes at `offset`, if the slice holds them all.
#[inline(always)]
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<&[u8; N]> {
    bytes.get(offset..)?.first_chunk()
}

/// The `N` writable bytes at `offset`, if the slice holds them all.
#[inline(always)]
pub(crate) fn array_mut<const N: usize>(bytes: &mut [u8], offset: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(offset..)?.first_chunk_mut()
}

/// Writes `value` big-endian at `offset`; false if it does not fit.
#[inline(always)]
#[must_use]
pub(crate) fn put_be16(bytes: &mut [u8], offset: usize, value: u16) -> bool {
    put(bytes, offset, &value.to_be_bytes())
}

/// Writes `value` at `offset`; false if it does not fit.
#[inline(always)]
#[must_use]
pub(crate) fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: &[u8; N]) -> bool {
    match array_mut::<N>(bytes, offset) {
        Some(slot) => {
            *slot = *value;
            true
        }
        None => false,
    }
}

/// As `copy_from_slice`, for headers: those of 32 to 64 bytes, which most are, take no call.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) fn copy_header(to: &mut [u8], from: &[u8]) {
    if (32..=64).contains(&from.len())
        && let (Some(first), Some(last)) = (from.first_chunk::<32>(), from.last_chunk::<32>())
    {
        let len = to.len();
        assert_eq!(len, from.len(), "a header and its room are equally long");
        // They overlap, with the same bytes.
        to[..32].copy_from_slice(first);
        to[len - 32..].copy_from_slice(last);
    } else {
        to.copy_from_slice(from);
    }
}
