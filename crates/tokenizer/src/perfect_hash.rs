//! A perfect hash by pilots: every key of a fixed set has a slot of its own, found with two loads and no loop.
//!
//! Keys fall into buckets of about four. A bucket's pilot, a 16-bit number chosen when the table is built, moves its keys
//! to slots that no other bucket took (the construction of CHD: Belazzougui, Botelho, Dietzfelbinger, "Hash, displace,
//! and compress", 2009). A lookup of a key outside the set ends at some slot too, so slots hold their key and the caller
//! compares. Damaged pilots can therefore only make a lookup miss.

/// Keys per bucket, on average.
const BUCKET_KEYS: usize = 4;

/// Spreads a value over 64 bits; both halves serve as hashes.
pub(crate) fn spread(value: u64) -> u64 {
    let value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    value ^ (value >> 32)
}

/// The slot of `hash`, below `slots`. Zero if `pilots` is empty.
#[inline(always)]
pub(crate) fn slot(hash: u64, pilots: &[[u8; 2]], slots: usize) -> usize {
    let bucket = scale((hash >> 32) as u32, pilots.len());
    let pilot = pilots.get(bucket).map_or(0, |pilot| u16::from_le_bytes(*pilot));
    place(hash, pilot, slots)
}

#[inline(always)]
fn place(hash: u64, pilot: u16, slots: usize) -> usize {
    let moved = (hash as u32) ^ u32::from(pilot).wrapping_mul(0x9e37_79b1);
    let mixed = (moved ^ (moved >> 15)).wrapping_mul(0x85eb_ca77);
    scale(mixed ^ (mixed >> 13), slots)
}

/// `hash` as a fraction of 2^32, of `end`.
#[inline(always)]
fn scale(hash: u32, end: usize) -> usize {
    (u64::from(hash).wrapping_mul(end as u64) >> 32) as usize
}

/// A finished assignment.
pub(crate) struct Assignment {
    /// One per bucket.
    pub(crate) pilots: Vec<u16>,
    /// The key (its index in the hashes) at each slot.
    pub(crate) keys: Vec<Option<u32>>,
}

/// Finds pilots for keys with these hashes. `None` if two hashes are equal, or so alike that no pilot parts them.
pub(crate) fn assign(hashes: &[u64]) -> Option<Assignment> {
    // A full table takes long to fill: spare slots, and more of them on every further attempt.
    (1..=5)
        .rev()
        .find_map(|spare| assign_within(hashes, hashes.len().saturating_add(hashes.len() >> spare)))
}

fn assign_within(hashes: &[u64], slots: usize) -> Option<Assignment> {
    let bucket_count = hashes.len().div_ceil(BUCKET_KEYS);
    let mut buckets = vec![Vec::new(); bucket_count];
    for (key, hash) in hashes.iter().enumerate() {
        buckets
            .get_mut(scale((hash >> 32) as u32, bucket_count))?
            .push(u32::try_from(key).ok()?);
    }
    // Large ones first, while there is room.
    let mut order: Vec<usize> = (0..bucket_count).collect();
    order.sort_by_key(|&bucket| std::cmp::Reverse(buckets.get(bucket).map_or(0, Vec::len)));
    let mut assignment = Assignment {
        pilots: vec![0; bucket_count],
        keys: vec![None; slots],
    };
    let mut taken = Vec::new();
    for bucket in order {
        let keys = buckets.get(bucket)?;
        let pilot = (0..=u16::MAX).find(|&pilot| {
            taken.clear();
            keys.iter().all(|&key| {
                let hash = hashes.get(key as usize).copied().unwrap_or_default();
                let slot = place(hash, pilot, slots);
                let free = assignment.keys.get(slot) == Some(&None) && !taken.contains(&slot);
                taken.push(slot);
                free
            })
        })?;
        *assignment.pilots.get_mut(bucket)? = pilot;
        for (&key, &slot) in keys.iter().zip(&taken) {
            *assignment.keys.get_mut(slot)? = Some(key);
        }
    }
    Some(assignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_finds_its_own_slot() {
        for count in [0, 1, 2, 5, 100, 20_000] {
            let hashes: Vec<u64> = (0..count).map(spread).collect();
            let assignment = assign(&hashes).unwrap();
            let pilots: Vec<[u8; 2]> = assignment.pilots.iter().map(|pilot| pilot.to_le_bytes()).collect();
            for (key, hash) in hashes.iter().enumerate() {
                let slot = slot(*hash, &pilots, assignment.keys.len());
                assert_eq!(assignment.keys[slot], Some(key as u32));
            }
            assert!(assignment.keys.len() <= hashes.len() + hashes.len() / 16);
        }
    }

    #[test]
    fn equal_hashes_cannot_be_parted() {
        assert!(assign(&[7, 7]).is_none());
    }
}
