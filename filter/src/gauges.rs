//! Load that all VMs of an Envoy share, and what a VM that died leaves of it.
//!
//! Envoy's gauges are process-wide atomics (0.14 us to add, 0.15 us to read), so a booking made on one worker thread
//! counts on all others at once, and two threads do not pick the same idle worker.
//!
//! What a VM has booked must not stay booked when the VM traps. Each VM therefore also writes down, in shared data, how
//! much of each account is its own: one small record per (VM, account), written right after the gauges. Every
//! [`SIGN_EVERY`] a VM gives a sign of life in the [`Roster`] and looks for silent ones; it takes such a seat over,
//! subtracts what the records of the seat say and zeroes them. As records are exact up to the last booking, so is the
//! repair; it comes [`crate::roster::SILENCE`] after the death. A VM that was merely stalled for so long books all its own
//! again under a new seat. What remains: a VM that wakes up after such a stall and books *while* it is being cleared
//! can leave that one booking behind.
//!
//! Gauges of workers that left the fleet stay, at 0, as do their records: Envoy can remove neither. A VM forgets them.

use crate::host::MetricId;
use crate::roster::{Roster, VmId};
use router_core::Millis;
use router_core::bookings::LoadDelta;
use router_core::cost::SlotLoad;
use router_core::fleet::{Candidate, Pool};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Time between two signs of life, in milliseconds.
pub const SIGN_EVERY: u64 = 1_000;

const ROSTER: &str = "warmpath.roster";
/// A writer that loses against others this often tries again with its next tick.
const ATTEMPTS: usize = 16;
/// The gauges of an account and the fields of its records, in order.
const FIELDS: [&str; 3] = ["prefill_tokens", "decode_blocks", "requests"];
/// Key of one VM-wide account: of its three numbers it uses two.
const VMS: &str = "warmpath.vms";
const VM_FIELDS: [&str; 3] = ["alive", "connected", "ready"];
/// The same, of the VMs' memory.
const MEMORY: &str = "warmpath.memory";
const MEMORY_FIELDS: [&str; 3] = ["vm_bytes", "view_bytes", "prompt_bytes"];

/// What VMs of one process share.
pub trait Shared {
    /// A value and its version; `(None, None)` if there never was one.
    fn read(&self, key: &str) -> (Option<Vec<u8>>, Option<u32>);
    /// Writes unless the value has another version than this. False if it has. Without a version, writes in any case.
    fn write(&self, key: &str, value: &[u8], version: Option<u32>) -> bool;
    /// Defines a gauge, or finds it.
    fn gauge(&self, name: &str) -> Option<MetricId>;
    /// A gauge's value.
    fn value(&self, gauge: MetricId) -> u64;
    /// Adds to a gauge; unsigned numbers that wrap.
    fn add(&self, gauge: MetricId, amount: i64);
}

/// The gauges of one worker, or of the VMs themselves.
#[derive(Debug)]
pub struct Account {
    key: String,
    gauges: [Option<MetricId>; 3],
}

type Amounts = [i64; 3];

/// One VM's part in the shared load.
#[derive(Debug)]
pub struct SharedLoad<S> {
    shared: S,
    vm: VmId,
    seat: Option<SeatState>,
    accounts: BTreeMap<String, Rc<Account>>,
    pools: BTreeMap<String, Vec<Rc<Account>>>,
    /// What of each account is this VM's.
    own: BTreeMap<String, Amounts>,
    last_sign: Option<Millis>,
}

#[derive(Debug)]
struct SeatState {
    number: u32,
    /// Whether a later look found the seat still ours: the very first writers of the roster can overwrite each other.
    confirmed: bool,
    /// Accounts that have a record under this seat, but for some of workers that left.
    listed: BTreeSet<String>,
}

/// How a VM does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmStatus {
    /// It runs.
    pub alive: bool,
    /// The control plane speaks to it.
    pub connected: bool,
    /// It has a fleet, and the views of all pools are in step.
    pub ready: bool,
}

/// What a VM's memory is taken by, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmMemory {
    /// All of it, which only grows.
    pub vm: usize,
    /// The prefix views.
    pub views: usize,
    /// The prompts that are remembered.
    pub prompts: usize,
}

/// What a sign of life found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Seats of dead VMs that were cleared.
    pub cleared: u64,
}

impl<S: Shared> SharedLoad<S> {
    /// The part of the VM `vm`, which has no seat before its first [`SharedLoad::sign`].
    pub fn new(shared: S, vm: VmId) -> Self {
        Self {
            shared,
            vm,
            seat: None,
            accounts: BTreeMap::new(),
            pools: BTreeMap::new(),
            own: BTreeMap::new(),
            last_sign: None,
        }
    }

    /// The VM's number among those of this process, once it is sure.
    pub fn number(&self) -> Option<u32> {
        self.seat.as_ref().filter(|seat| seat.confirmed).map(|seat| seat.number)
    }

    /// Finds the gauges of every candidate. To be called whenever pools or their candidates may have changed.
    pub fn bind<'p>(&mut self, pools: impl Iterator<Item = &'p Pool>) {
        self.pools.clear();
        for pool in pools {
            let accounts = pool
                .candidates
                .iter()
                .map(|candidate| self.account(account_key(&pool.name, candidate), FIELDS));
            let accounts = accounts.collect();
            self.pools.insert(pool.name.clone(), accounts);
        }
        let in_use = |_: &String, account: &mut Rc<Account>| Rc::strong_count(account) > 1;
        self.accounts.retain(in_use);
    }

    /// The account of a pool's candidate.
    pub fn of(&self, pool: &str, candidate: usize) -> Option<Rc<Account>> {
        self.pools.get(pool)?.get(candidate).cloned()
    }

    /// The load of each candidate of a pool, in their order.
    pub fn loads(&self, pool: &str) -> Vec<SlotLoad> {
        let accounts = self.pools.get(pool).map(Vec::as_slice).unwrap_or_default();
        accounts.iter().map(|account| self.load(account)).collect()
    }

    /// Adds to an account.
    pub fn add(&mut self, account: &Account, delta: LoadDelta) {
        self.book(account, [delta.prefill_tokens, delta.decode_blocks, delta.requests]);
    }

    /// Tells in the gauges `warmpath.vms.*` how this VM does.
    pub fn report_vm(&mut self, status: VmStatus) {
        let VmStatus {
            alive,
            connected,
            ready,
        } = status;
        self.report(VMS, [alive, connected, ready].map(i64::from));
    }

    /// Tells in the gauges `warmpath.memory.*` what this VM takes.
    pub fn report_memory(&mut self, memory: VmMemory) {
        let VmMemory { vm, views, prompts } = memory;
        let bytes = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.report(MEMORY, [vm, views, prompts].map(bytes));
    }

    /// Makes this VM's part of gauges what it is now.
    fn report(&mut self, key: &str, now: Amounts) {
        let account = self.account(key.to_owned(), fields_of(key));
        let before = self.own.get(key).copied().unwrap_or_default();
        self.book(&account, combine(now, before, i64::saturating_sub));
    }

    /// Gives a sign of life, takes a seat if there is none, and clears the seats of the dead. Does nothing if the last
    /// sign is recent.
    pub fn sign(&mut self, now: Millis) -> Signs {
        let confirming = self.seat.as_ref().is_some_and(|seat| !seat.confirmed);
        let recent = self.last_sign.is_some_and(|last| now.since(last) < SIGN_EVERY);
        if recent && !confirming {
            return Signs::default();
        }
        self.last_sign = Some(now);
        let vm = self.vm;
        let number = self.seat.as_ref().map(|seat| seat.number);
        let signed = self.update(|roster| {
            let kept = number.filter(|&number| roster.sign(number, vm, now));
            let number = kept.unwrap_or_else(|| roster.join(vm, now));
            (number, kept.is_some(), roster.take_over(vm, now))
        });
        let Some((number, kept, dead)) = signed else {
            return Signs::default();
        };
        match self.seat.as_mut().filter(|_| kept) {
            Some(seat) => seat.confirmed = true,
            None => self.sit_down(number),
        }
        let Some(dead) = dead else {
            return Signs::default();
        };
        self.clear(dead);
        let _ = self.update(|roster| roster.leave(dead, vm));
        Signs { cleared: 1 }
    }

    fn load(&self, account: &Account) -> SlotLoad {
        let value = |gauge: Option<MetricId>| {
            let value = gauge.map_or(0, |gauge| self.shared.value(gauge));
            // Below zero, as after a clearing that took too much.
            i64::try_from(value).map_or(0, i64::unsigned_abs)
        };
        let [prefill_tokens, decode_blocks, requests] = account.gauges.map(value);
        SlotLoad {
            prefill_tokens,
            decode_blocks,
            requests,
        }
    }

    fn book(&mut self, account: &Account, change: Amounts) {
        if change == Amounts::default() {
            return;
        }
        self.post(account, change);
        let own = self.own.entry(account.key.clone()).or_default();
        *own = combine(*own, change, i64::saturating_add);
        let own = *own;
        if own == Amounts::default() {
            self.own.remove(&account.key);
        }
        self.record(&account.key, own);
    }

    fn post(&self, account: &Account, change: Amounts) {
        for (gauge, amount) in account.gauges.into_iter().zip(change) {
            if let Some(gauge) = gauge {
                self.shared.add(gauge, amount);
            }
        }
    }

    /// Writes down what of an account is ours.
    fn record(&mut self, key: &str, own: Amounts) {
        let Some(seat) = &mut self.seat else {
            return;
        };
        let number = seat.number;
        let is_new = !seat.listed.contains(key);
        if is_new {
            // Workers come and go: the records of those that went are at 0 and need no clearing.
            let (accounts, all_own) = (&self.accounts, &self.own);
            seat.listed
                .retain(|listed| accounts.contains_key(listed) || all_own.contains_key(listed));
            seat.listed.insert(key.to_owned());
            let list = serde_json::to_vec(&seat.listed).unwrap_or_default();
            self.shared.write(&list_key(number), &list, None);
        }
        self.shared.write(&record_key(number, key), &encode(own), None);
    }

    /// Starts under a new seat. What was booked under one that was taken from us has been subtracted: book it again.
    /// (A seat can also be lost before it was confirmed and without being cleared, but nothing is booked by then.)
    fn sit_down(&mut self, number: u32) {
        let was_cleared = self.seat.is_some();
        // A number's list outlives its holders, as do the records on it, which they left at 0.
        let listed = read_list(&self.shared, number);
        self.seat = Some(SeatState {
            number,
            confirmed: false,
            listed,
        });
        let own = self.own.clone();
        for (key, amounts) in own {
            if was_cleared {
                let account = self.account(key.clone(), fields_of(&key));
                self.post(&account, amounts);
            }
            self.record(&key, amounts);
        }
    }

    fn clear(&mut self, number: u32) {
        for key in read_list(&self.shared, number) {
            let record = record_key(number, &key);
            let left = self
                .shared
                .read(&record)
                .0
                .and_then(|bytes| decode(&bytes))
                .unwrap_or_default();
            self.shared.write(&record, &encode(Amounts::default()), None);
            let account = self.account(key.clone(), fields_of(&key));
            self.post(&account, left.map(i64::saturating_neg));
        }
    }

    fn account(&mut self, key: String, fields: [&str; 3]) -> Rc<Account> {
        if let Some(account) = self.accounts.get(&key) {
            return Rc::clone(account);
        }
        let gauges = fields.map(|field| self.shared.gauge(&format!("{key}.{field}")));
        let account = Rc::new(Account {
            key: key.clone(),
            gauges,
        });
        self.accounts.insert(key, Rc::clone(&account));
        account
    }

    /// Changes the roster under other writers' eyes. `None` if they were always faster.
    fn update<T>(&self, mut change: impl FnMut(&mut Roster) -> T) -> Option<T> {
        for _ in 0..ATTEMPTS {
            let (bytes, version) = self.shared.read(ROSTER);
            let mut roster: Roster = bytes
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default();
            let result = change(&mut roster);
            let bytes = serde_json::to_vec(&roster).ok()?;
            if self.shared.write(ROSTER, &bytes, version) {
                return Some(result);
            }
        }
        None
    }
}

fn account_key(pool: &str, candidate: &Candidate) -> String {
    let rank = candidate.dp_rank.unwrap_or(0);
    match candidate.instance_id {
        None => format!("warmpath.load.{pool}.{}.{rank}", candidate.endpoint),
        Some(instance) => format!("warmpath.load.{pool}.{instance}.{rank}"),
    }
}

fn fields_of(key: &str) -> [&'static str; 3] {
    match key {
        VMS => VM_FIELDS,
        MEMORY => MEMORY_FIELDS,
        _ => FIELDS,
    }
}

fn list_key(number: u32) -> String {
    format!("warmpath.vm.{number}")
}

fn record_key(number: u32, account: &str) -> String {
    format!("warmpath.vm.{number}.{account}")
}

fn read_list(shared: &impl Shared, number: u32) -> BTreeSet<String> {
    let (bytes, _) = shared.read(&list_key(number));
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn combine(left: Amounts, right: Amounts, with: fn(i64, i64) -> i64) -> Amounts {
    let ([a, b, c], [x, y, z]) = (left, right);
    [with(a, x), with(b, y), with(c, z)]
}

fn encode(amounts: Amounts) -> Vec<u8> {
    amounts.iter().flat_map(|amount| amount.to_le_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Option<Amounts> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let numbers: &[[u8; 8]; 3] = numbers.try_into().ok().filter(|_| rest.is_empty())?;
    Some(numbers.map(i64::from_le_bytes))
}

#[cfg(test)]
mod tests;
