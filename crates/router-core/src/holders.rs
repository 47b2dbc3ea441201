//! Who holds a block: a set of slots.
//!
//! A set of slots below 64 is a word of bits, any other of up to four slots a word that lists them. All others are stored
//! once, however many blocks have them, and named by an id: most blocks of a large fleet share few sets. Each set has one
//! form only, so equal sets are equal values.

use crate::Slot;
use alloc::{boxed::Box, vec::Vec};
use hashbrown::HashTable;

/// Slots that fit a word of bits.
const BITS: u16 = 64;
/// Words that hold a bit of every slot.
const WORDS: usize = Slot::LIMIT as usize / 64;
/// Slots of a list that share a word.
const PER_WORD: usize = 4;
/// What follows the last slot in the last word of a list.
const NO_SLOT: u16 = u16::MAX;
/// A list of nothing.
const EMPTY_LIST: u64 = u64::MAX;
/// Sets are spread over so many tables, so that none of them takes long to grow or to be freed.
const TABLES: usize = 64;
/// What a set takes beside its members, in bytes: its record, its place in the table, and the allocator's own.
const SET_OVERHEAD: usize = 48;

/// The holders of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holders {
    /// Bit `s` says that slot `s` is in.
    Bits(u64),
    /// Up to [`PER_WORD`] slots in ascending order, the last of them 64 or above.
    List(u64),
    /// Any other.
    Interned(SetId),
}

/// Names an interned set: its table, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetId {
    table: u8,
    place: u32,
}

/// Bit `s % 64` of word `s / 64` says that slot `s` is in.
#[derive(Clone, Copy)]
struct Bitmap {
    words: [u64; WORDS],
    /// Words from here on are 0.
    end: usize,
}

/// A set in its shorter form, in words: the slots in ascending order, [`PER_WORD`] in each, or the bits up to the last
/// that is set. At most 512 bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Members<W> {
    is_list: bool,
    words: W,
}

#[derive(Debug)]
struct Record {
    members: Members<Box<[u64]>>,
    /// Entries that name this set; 0: the place is free.
    uses: u32,
}

/// Sets whose hashes fall into one table.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    records: Vec<Record>,
    by_members: HashTable<u32>,
    free: Vec<u32>,
}

/// All interned sets of a view.
#[derive(Debug)]
pub(crate) struct HolderSets {
    tables: Vec<Sets>,
    bytes: usize,
    scratch: Members<Vec<u64>>,
}

impl Holders {
    /// Nobody.
    pub(crate) const NONE: Self = Self::Bits(0);

    pub(crate) fn interned_from(word: u64) -> Self {
        let [table, _, _, _, place @ ..] = word.to_be_bytes();
        let place = u32::from_be_bytes(place);
        Self::Interned(SetId { table, place })
    }
}

impl SetId {
    pub(crate) fn to_word(self) -> u64 {
        u64::from(self.table) << 56 | u64::from(self.place)
    }
}

impl HolderSets {
    pub(crate) fn new() -> Self {
        Self {
            tables: (0..TABLES).map(|_| Sets::default()).collect(),
            bytes: 0,
            scratch: Members::default(),
        }
    }

    /// Memory of the interned sets, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The tables, to be freed one by one.
    pub(crate) fn into_tables(self) -> Vec<Sets> {
        self.tables
    }

    pub(crate) fn contains(&self, holders: Holders, slot: Slot) -> bool {
        self.members(&holders).contains(slot.0)
    }

    /// Calls `visit` with each slot that is in `holders` and not in `without`, in ascending order.
    pub(crate) fn for_each_difference(&self, holders: Holders, without: Holders, mut visit: impl FnMut(Slot)) {
        let (members, without) = (self.members(&holders), self.members(&without));
        if members.is_list {
            let missing = members.list().filter(|&slot| !without.contains(slot));
            missing.for_each(|slot| visit(Slot(slot)));
        } else if without.is_list {
            visit_difference(members.words, Bitmap::of(without).used(), visit);
        } else {
            visit_difference(members.words, without.words, visit);
        }
    }

    /// The set that differs from `from` in `slot` alone; one use moves from `from` to it. `None`, and nothing has
    /// changed, if it would take more than `room` bytes.
    pub(crate) fn toggled(&mut self, from: Holders, slot: Slot, room: usize) -> Option<Holders> {
        let list = match from {
            Holders::Bits(bits) if slot.0 < BITS => return Some(Holders::Bits(bits ^ bit_of(slot.0))),
            Holders::NONE => Some(EMPTY_LIST),
            Holders::List(list) => Some(list),
            _ => None,
        };
        if let Some(list) = list.and_then(|list| toggled_list(list, slot.0)) {
            return Some(list);
        }
        let mut bitmap = Bitmap::of(self.members(&from));
        bitmap.toggle(slot.0);
        let to = match bitmap.used() {
            [] => Holders::NONE,
            &[bits] => Holders::Bits(bits),
            _ => {
                bitmap.write_shortest(&mut self.scratch);
                match self.scratch.words[..] {
                    [list] if self.scratch.is_list => Holders::List(list),
                    _ => Holders::Interned(self.intern(room)?),
                }
            }
        };
        self.release(from);
        Some(to)
    }

    fn release(&mut self, holders: Holders) {
        let Holders::Interned(id) = holders else { return };
        let Some(sets) = self.tables.get_mut(usize::from(id.table)) else {
            return;
        };
        let Some(record) = sets.records.get_mut(id.place as usize) else {
            return;
        };
        record.uses = record.uses.saturating_sub(1);
        if record.uses > 0 {
            return;
        }
        let members = core::mem::take(&mut record.members);
        if let Ok(entry) = sets.by_members.find_entry(members.hash(), |&place| place == id.place) {
            entry.remove();
        }
        sets.free.push(id.place);
        self.bytes = self.bytes.saturating_sub(members.bytes());
    }

    /// Takes one use of the set in `scratch`.
    fn intern(&mut self, room: usize) -> Option<SetId> {
        let Self { tables, bytes, scratch } = self;
        let hash = scratch.hash();
        // The table's own bits of the hash are the upper and the lowest ones.
        let table = (hash >> 32) as u8 & (TABLES as u8).wrapping_sub(1);
        let sets = tables.get_mut(usize::from(table))?;
        let records = &mut sets.records;
        let is_same = |&place: &u32| {
            records
                .get(place as usize)
                .is_some_and(|record| record.members.is(scratch))
        };
        if let Some(&place) = sets.by_members.find(hash, is_same) {
            let record = records.get_mut(place as usize)?;
            record.uses = record.uses.saturating_add(1);
            return Some(SetId { table, place });
        }
        if scratch.bytes() > room {
            return None;
        }
        let members = Members {
            is_list: scratch.is_list,
            words: scratch.words.as_slice().into(),
        };
        let record = Record { members, uses: 1 };
        let place = match sets.free.pop() {
            Some(place) => {
                *records.get_mut(place as usize)? = record;
                place
            }
            None => {
                let place = u32::try_from(records.len()).ok()?;
                records.push(record);
                place
            }
        };
        let rehash = |&place: &u32| records.get(place as usize).map_or(0, |record| record.members.hash());
        sets.by_members.insert_unique(hash, place, rehash);
        *bytes = bytes.saturating_add(scratch.bytes());
        Some(SetId { table, place })
    }

    fn record(&self, id: SetId) -> Option<&Record> {
        self.tables.get(usize::from(id.table))?.records.get(id.place as usize)
    }

    /// The set in the form in which it is stored.
    fn members<'a>(&'a self, holders: &'a Holders) -> Members<&'a [u64]> {
        let (is_list, words): (bool, &[u64]) = match holders {
            Holders::Bits(bits) => (false, core::slice::from_ref(bits)),
            Holders::List(list) => (true, core::slice::from_ref(list)),
            Holders::Interned(id) => match self.record(*id) {
                Some(Record { members, .. }) => (members.is_list, &members.words),
                None => (false, &[]),
            },
        };
        Members { is_list, words }
    }
}

impl Bitmap {
    fn of(members: Members<&[u64]>) -> Self {
        let mut bitmap = Self {
            words: [0; WORDS],
            end: 0,
        };
        if members.is_list {
            members.list().for_each(|slot| bitmap.toggle(slot));
            return bitmap;
        }
        for (place, &word) in bitmap.words.iter_mut().zip(members.words) {
            *place = word;
        }
        bitmap.end = members.words.len().min(WORDS);
        bitmap
    }

    fn toggle(&mut self, slot: u16) {
        let place = usize::from(slot >> 6);
        if let Some(word) = self.words.get_mut(place) {
            *word ^= bit_of(slot);
            self.end = self.end.max(place.saturating_add(1));
        }
    }

    /// The words up to the last that is not 0.
    fn used(&self) -> &[u64] {
        let words = self.words.get(..self.end).unwrap_or(&self.words);
        let last = words.iter().rposition(|&word| word != 0);
        words
            .get(..last.map_or(0, |last| last.saturating_add(1)))
            .unwrap_or(&[])
    }

    fn write_shortest(&self, to: &mut Members<Vec<u64>>) {
        let words = self.used();
        let count: u32 = words.iter().map(|word| word.count_ones()).sum();
        to.is_list = (count as usize).div_ceil(PER_WORD) < words.len();
        to.words.clear();
        if !to.is_list {
            to.words.extend_from_slice(words);
            return;
        }
        let mut packed = [NO_SLOT; PER_WORD];
        let mut filled = 0;
        visit_difference(words, &[], |slot| {
            if let Some(place) = packed.get_mut(filled) {
                *place = slot.0;
            }
            filled = filled.saturating_add(1);
            if filled == PER_WORD {
                to.words.push(pack(packed));
                (packed, filled) = ([NO_SLOT; PER_WORD], 0);
            }
        });
        if filled > 0 {
            to.words.push(pack(packed));
        }
    }
}

impl<W: AsRef<[u64]>> Members<W> {
    fn is(&self, other: &Members<impl AsRef<[u64]>>) -> bool {
        self.is_list == other.is_list && self.words.as_ref() == other.words.as_ref()
    }

    fn contains(&self, slot: u16) -> bool {
        if self.is_list {
            return self.list().any(|member| member == slot);
        }
        let word = self.words.as_ref().get(usize::from(slot >> 6));
        word.is_some_and(|word| word & bit_of(slot) != 0)
    }

    fn list(&self) -> impl Iterator<Item = u16> {
        self.words.as_ref().iter().flat_map(|&word| unpack(word))
    }

    fn bytes(&self) -> usize {
        self.words.as_ref().len().saturating_mul(8).saturating_add(SET_OVERHEAD)
    }

    fn hash(&self) -> u64 {
        let mix = |hash: u64, word: &u64| (hash.rotate_left(29) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let hash = self.words.as_ref().iter().fold(u64::from(self.is_list), mix);
        (hash ^ (hash >> 32)).wrapping_mul(0xC4CE_B9FE_1A85_EC53)
    }
}

/// Calls `visit` with each slot whose bit is set in `words` and not in `without`, in ascending order.
fn visit_difference(words: &[u64], without: &[u64], mut visit: impl FnMut(Slot)) {
    for (number, &word) in (0_u16..).zip(words) {
        let mut rest = word & !without.get(usize::from(number)).copied().unwrap_or(0);
        while rest != 0 {
            let bit = u16::try_from(rest.trailing_zeros()).unwrap_or(0);
            visit(Slot(number.saturating_mul(64).saturating_add(bit)));
            rest &= rest.wrapping_sub(1);
        }
    }
}

/// The set that differs from `list` in `slot`. `None` if that is too large for a list in one word.
fn toggled_list(list: u64, slot: u16) -> Option<Holders> {
    let mut slots = [slot, NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT];
    for (place, other) in slots.iter_mut().skip(1).zip(unpack(list)) {
        *place = other;
    }
    if unpack(list).any(|other| other == slot) {
        slots = slots.map(|other| if other == slot { NO_SLOT } else { other });
    }
    slots.sort_unstable();
    let [a, b, c, d, NO_SLOT] = slots else { return None };
    let list = pack([a, b, c, d]);
    let is_list = unpack(list).last().is_some_and(|slot| slot >= BITS);
    Some(if is_list {
        Holders::List(list)
    } else {
        Holders::Bits(unpack(list).fold(0, |bits, slot| bits | bit_of(slot)))
    })
}

fn bit_of(slot: u16) -> u64 {
    1 << (slot & 63)
}

fn pack([a, b, c, d]: [u16; PER_WORD]) -> u64 {
    u64::from(a) << 48 | u64::from(b) << 32 | u64::from(c) << 16 | u64::from(d)
}

fn unpack(word: u64) -> impl Iterator<Item = u16> {
    let slots = [48, 32, 16, 0].map(|shift| (word >> shift) as u16);
    slots.into_iter().take_while(|&slot| slot != NO_SLOT)
}
