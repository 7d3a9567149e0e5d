//! The search for the byte that ends the plain part of a JSON string, many bytes at once.

/// Return where the first quote, backslash or control character at or behind `at` is, or the
/// length of `source`.
///
/// `is_wide` becomes true if there is a byte above 0x7f between both. It may also become true for
/// one that is near.
#[inline]
pub fn special(source: &[u8], at: usize, is_wide: &mut bool) -> usize {
    #[cfg(target_arch = "x86_64")]
    return x86::special(source, at, is_wide);
    #[cfg(not(target_arch = "x86_64"))]
    return words::special(source, at, is_wide);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8,
        _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8, _mm_cmpeq_epi8, _mm_loadu_si128,
        _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };

    /// Number of bytes that are examined at once; every processor of this architecture can do that.
    const WIDTH: usize = 16;

    /// Number of bytes of a long string that are examined at once, if the processor supports it.
    const BLOCK: usize = 64;

    /// Chunks before a string counts as long.
    const SHORT: usize = 4;

    #[inline]
    pub fn special(source: &[u8], mut at: usize, is_wide: &mut bool) -> usize {
        let mut chunks = 0;
        while let Some(chunk) = source.get(at..at + WIDTH) {
            let found = marks(chunk.try_into().expect("a whole chunk"), is_wide);
            if found != 0 {
                return at + found.trailing_zeros() as usize;
            }
            at += WIDTH;
            chunks += 1;
            if chunks == SHORT && is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has these instructions.
                at = unsafe { behind_plain_blocks(source, at, is_wide) };
            }
        }
        let left = source.len() - at;
        let found = match source.last_chunk::<WIDTH>() {
            Some(last) => marks(last, is_wide) >> (WIDTH - left),
            None => {
                let mut padded = [b'"'; WIDTH];
                padded[..left].copy_from_slice(&source[at..]);
                marks(&padded, is_wide)
            }
        };
        at + (found.trailing_zeros() as usize).min(left)
    }

    /// Return a bit for each special byte, the lowest for the first one.
    #[inline]
    fn marks(chunk: &[u8; WIDTH], is_wide: &mut bool) -> u32 {
        // SAFETY: all of the chunk is there; loads need no alignment.
        unsafe {
            let chunk = _mm_loadu_si128(chunk.as_ptr().cast::<__m128i>());
            *is_wide |= _mm_movemask_epi8(chunk) != 0;
            let quotes = _mm_cmpeq_epi8(chunk, _mm_set1_epi8(b'"' as i8));
            let slashes = _mm_cmpeq_epi8(chunk, _mm_set1_epi8(b'\\' as i8));
            let controls = _mm_cmpeq_epi8(_mm_min_epu8(chunk, _mm_set1_epi8(0x1f)), chunk);
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quotes, slashes), controls)) as u32
        }
    }

    /// Return where the first block from `at` on is that has a special byte, or isn't whole.
    #[target_feature(enable = "avx2")]
    unsafe fn behind_plain_blocks(source: &[u8], mut at: usize, is_wide: &mut bool) -> usize {
        let quote = _mm256_set1_epi8(b'"' as i8);
        let slash = _mm256_set1_epi8(b'\\' as i8);
        let control = _mm256_set1_epi8(0x1f);
        let mut all = _mm256_set1_epi8(0);
        while let Some(block) = source.get(at..at + BLOCK) {
            // SAFETY: all of the block is there; loads need no alignment.
            let halves = unsafe {
                let start = block.as_ptr().cast::<__m256i>();
                [_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))]
            };
            let mut found = _mm256_set1_epi8(0);
            for half in halves {
                let quotes = _mm256_cmpeq_epi8(half, quote);
                let slashes = _mm256_cmpeq_epi8(half, slash);
                let controls = _mm256_cmpeq_epi8(_mm256_min_epu8(half, control), half);
                let special = _mm256_or_si256(_mm256_or_si256(quotes, slashes), controls);
                found = _mm256_or_si256(found, special);
            }
            if _mm256_movemask_epi8(found) != 0 {
                break; // its bytes are examined again
            }
            all = _mm256_or_si256(all, _mm256_or_si256(halves[0], halves[1]));
            at += BLOCK;
        }
        *is_wide |= _mm256_movemask_epi8(all) != 0;
        at
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod words {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;

    pub fn special(source: &[u8], mut at: usize, is_wide: &mut bool) -> usize {
        let mut high = 0;
        while let Some(eight) = source.get(at..at + 8) {
            let word = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
            if has_special(word) {
                break;
            }
            high |= word;
            at += 8;
        }
        *is_wide |= high & HIGHS != 0;
        while let Some(&byte) = source.get(at) {
            if byte < 0x20 || byte == b'"' || byte == b'\\' {
                break;
            }
            *is_wide |= byte > 0x7f;
            at += 1;
        }
        at
    }

    /// Whether one of eight bytes is a quote, a backslash or below a blank. A byte above 0x7f may
    /// be taken for one; the caller looks again byte by byte.
    #[inline]
    fn has_special(word: u64) -> bool {
        let quote = word ^ (ONES * b'"' as u64);
        let slash = word ^ (ONES * b'\\' as u64);
        let zero = |value: u64| value.wrapping_sub(ONES) & !value & HIGHS;
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        (zero(quote) | zero(slash) | control) != 0
    }
}
