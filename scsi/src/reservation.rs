//! Persistent reservations of one LU: registrations, the reservation, and what each change means for whom (SPC-5, 5.14).
//!
//! Pure: the service actions in `pr_out` decide whether a change is allowed, this decides what it is. Invariants:
//! 1. There is a reservation only while its holder (for the All Registrants types: somebody) is registered.
//! 2. No two registrations have the same I_T nexus; no key is zero.
//! 3. There are at most [`MAX_REGISTRATIONS`].

use crate::port::{InitiatorPort, MAX_NAME};

/// Registrations per LU; more are refused with INSUFFICIENT REGISTRATION RESOURCES.
pub(crate) const MAX_REGISTRATIONS: usize = 512;

/// Type of a persistent reservation (SPC-5, table 70).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrantsOnly = 5,
    ExclusiveAccessRegistrantsOnly = 6,
    WriteExclusiveAllRegistrants = 7,
    ExclusiveAccessAllRegistrants = 8,
}

impl Kind {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrantsOnly,
            6 => Self::ExclusiveAccessRegistrantsOnly,
            7 => Self::WriteExclusiveAllRegistrants,
            8 => Self::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// The name of SPC.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::WriteExclusive => "Write Exclusive",
            Self::ExclusiveAccess => "Exclusive Access",
            Self::WriteExclusiveRegistrantsOnly => "Write Exclusive, Registrants Only",
            Self::ExclusiveAccessRegistrantsOnly => "Exclusive Access, Registrants Only",
            Self::WriteExclusiveAllRegistrants => "Write Exclusive, All Registrants",
            Self::ExclusiveAccessAllRegistrants => "Exclusive Access, All Registrants",
        }
    }

    /// Others may read.
    pub(crate) const fn write_exclusive(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrantsOnly | Self::WriteExclusiveAllRegistrants
        )
    }

    /// Whoever is registered has access.
    pub(crate) const fn registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whoever is registered holds it.
    pub(crate) const fn all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }
}

/// An I_T nexus by the names of its ports: it outlives sessions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NexusName {
    pub(crate) initiator: InitiatorPort,
    /// Relative target port identifier.
    pub(crate) port: u16,
}

impl NexusName {
    pub(crate) fn is(&self, initiator: &InitiatorPort, port: u16) -> bool {
        self.port == port && self.initiator == *initiator
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) who: NexusName,
    pub(crate) key: u64,
    /// Registered through all target ports (ALL_TG_PT).
    pub(crate) all_ports: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) kind: Kind,
    /// `None` for the All Registrants types.
    pub(crate) holder: Option<NexusName>,
}

/// Who must be told what after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// REGISTRATIONS PREEMPTED; and whose tasks PREEMPT AND ABORT aborts.
    pub(crate) preempted: Vec<NexusName>,
    /// RESERVATIONS PREEMPTED.
    pub(crate) cleared: Vec<NexusName>,
    /// RESERVATIONS RELEASED.
    pub(crate) released: Vec<NexusName>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reservations {
    /// PRGENERATION.
    pub(crate) generation: u32,
    /// Survives power loss (APTPL).
    pub(crate) persist: bool,
    pub(crate) registrations: Vec<Registration>,
    pub(crate) reservation: Option<Reservation>,
}

impl Reservations {
    /// What power loss leaves: everything under APTPL, else nothing. PRGENERATION starts over.
    pub(crate) fn power_on(&mut self) {
        if !self.persist {
            *self = Self::default();
        }
        self.generation = 0;
    }

    pub(crate) fn kind(&self) -> Option<Kind> {
        self.reservation.as_ref().map(|r| r.kind)
    }

    pub(crate) fn key_of(&self, initiator: &InitiatorPort, port: u16) -> Option<u64> {
        self.registrations.iter().find(|r| r.who.is(initiator, port)).map(|r| r.key)
    }

    pub(crate) fn is_holder(&self, initiator: &InitiatorPort, port: u16) -> bool {
        match &self.reservation {
            None => false,
            Some(Reservation { holder: Some(holder), .. }) => holder.is(initiator, port),
            Some(Reservation { holder: None, .. }) => self.key_of(initiator, port).is_some(),
        }
    }

    fn count(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Registers all of `who`, or changes their key. `false` when there is no room, or for a name that no iSCSI node can have.
    pub(crate) fn register(&mut self, who: &[NexusName], key: u64, all_ports: bool) -> bool {
        let known = |r: &&NexusName| self.registrations.iter().any(|have| have.who == **r);
        let new = who.iter().filter(|r| !known(r)).count();
        let named = |who: &NexusName| (1..=MAX_NAME).contains(&who.initiator.name.len());
        if self.registrations.len() + new > MAX_REGISTRATIONS || !who.iter().all(named) {
            return false;
        }
        for who in who {
            match self.registrations.iter_mut().find(|r| r.who == *who) {
                Some(registration) => registration.key = key,
                None => self.registrations.push(Registration { who: who.clone(), key, all_ports }),
            }
        }
        self.count();
        true
    }

    /// Ends a registration, and the reservation with it where it hung on it (SPC-5, 5.14.11.2.3).
    pub(crate) fn unregister(&mut self, who: &NexusName) -> Change {
        let mut change = Change::default();
        self.registrations.retain(|r| r.who != *who);
        self.count();
        let Some(reservation) = &self.reservation else { return change };
        let ends = match &reservation.holder {
            Some(holder) => holder == who,
            None => self.registrations.is_empty(),
        };
        if ends {
            if reservation.kind.registrants() {
                change.released = self.others(who);
            }
            self.reservation = None;
        }
        change
    }

    fn others(&self, who: &NexusName) -> Vec<NexusName> {
        self.registrations.iter().filter(|r| r.who != *who).map(|r| r.who.clone()).collect()
    }

    fn holder_for(kind: Kind, who: &NexusName) -> Option<NexusName> {
        (!kind.all_registrants()).then(|| who.clone())
    }

    /// Makes a reservation where there is none.
    pub(crate) fn reserve(&mut self, who: &NexusName, kind: Kind) {
        self.reservation = Some(Reservation { kind, holder: Self::holder_for(kind, who) });
    }

    /// Ends the reservation of its holder (SPC-5, 5.14.11.2.2).
    pub(crate) fn release(&mut self, who: &NexusName) -> Change {
        let mut change = Change::default();
        if let Some(reservation) = self.reservation.take()
            && reservation.kind.registrants()
        {
            change.released = self.others(who);
        }
        change
    }

    /// Ends everything (SPC-5, 5.14.11.2.6).
    pub(crate) fn clear(&mut self, who: &NexusName) -> Change {
        let cleared = self.others(who);
        self.registrations.clear();
        self.reservation = None;
        self.count();
        Change { cleared, ..Change::default() }
    }

    /// PREEMPT by a registered nexus (SPC-5, 5.14.11.2.4). `None` when `key` names nobody it may name.
    pub(crate) fn preempt(&mut self, who: &NexusName, key: u64, kind: Kind) -> Option<Change> {
        let takes_over = match &self.reservation {
            Some(Reservation { holder: None, .. }) => key == 0,
            Some(Reservation { holder: Some(holder), .. }) => {
                self.registrations.iter().any(|r| r.who == *holder && r.key == key)
            }
            None => false,
        };
        // Under All Registrants a zero key means everybody else; elsewhere no key is zero and it matches nobody.
        let everybody = takes_over && key == 0;
        if !everybody && !self.registrations.iter().any(|r| r.key == key) {
            return None;
        }
        let mut change = Change::default();
        self.registrations.retain(|r| {
            let own = r.who == *who;
            // Who preempts a reservation keeps its own registration. Who only removes registrations may name its own key as well,
            // and is not told what it knows (SPC-5, 5.14.11.2.4).
            let goes = (everybody || r.key == key) && !(own && takes_over);
            if goes && !own {
                change.preempted.push(r.who.clone());
            }
            !goes
        });
        if takes_over {
            let before = self.kind();
            self.reserve(who, kind);
            if before.is_some_and(|before| before != kind && before.registrants()) {
                change.released = self.others(who);
            }
        } else if self.registrations.is_empty() {
            // The last holder under an All Registrants type.
            self.reservation = None;
        }
        self.count();
        Some(change)
    }

    /// Moves the reservation to another nexus, registering it (SPC-5, 5.14.8). `false` when there is no room.
    pub(crate) fn move_to(&mut self, from: &NexusName, to: &NexusName, key: u64, unregister: bool) -> bool {
        if !self.register(std::slice::from_ref(to), key, false) {
            return false;
        }
        if let Some(reservation) = &mut self.reservation {
            reservation.holder = Some(to.clone());
        }
        if unregister {
            self.registrations.retain(|r| r.who != *from);
        }
        true
    }
}
