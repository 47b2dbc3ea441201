//! The ladder: what a decision was based on, and why not on more.

/// What a pick rests on, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// The prefix view, in step with the control plane, and load.
    Exact,
    /// The last view, of a control plane that is out of reach, and own bookings.
    Stale,
    /// Load alone.
    Load,
    /// No pick: the gateway's own balancer, or a refusal, as configured.
    Pass,
}

impl Rung {
    /// Every rung, best first.
    pub const ALL: [Self; 4] = [Self::Exact, Self::Stale, Self::Load, Self::Pass];

    /// Name in metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Stale => "stale",
            Self::Load => "load",
            Self::Pass => "pass",
        }
    }
}

/// Where a pick landed on the ladder and why. `reason` is `"ok"` where nothing was missing, else a short snake_case label
/// that metrics count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Footing {
    /// The rung.
    pub rung: Rung,
    /// Why it rests on no more than that.
    pub reason: &'static str,
}

impl Footing {
    /// The highest rung.
    pub const EXACT: Self = Self {
        rung: Rung::Exact,
        reason: "ok",
    };

    /// The highest rung, with the first blocks of the prompt only, for `reason`.
    pub const fn exact(reason: &'static str) -> Self {
        Self {
            rung: Rung::Exact,
            reason,
        }
    }

    /// The load rung, for `reason`.
    pub const fn load(reason: &'static str) -> Self {
        Self {
            rung: Rung::Load,
            reason,
        }
    }

    /// No pick, for `reason`.
    pub const fn pass(reason: &'static str) -> Self {
        Self {
            rung: Rung::Pass,
            reason,
        }
    }
}
