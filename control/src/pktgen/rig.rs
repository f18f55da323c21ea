//! What a topology is made of, put together in one place: the devices, what lies behind them, the seats.
//!
//! In: a target, a profile, what guests are, processors. Out: devices that run, seats at them, a session where one is
//! needed; what devices count; all of it again after a device has gone. Never: a trial.

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use culvert_pktgen::profile::Checksums;
use culvert_pktgen::size::Tunnel;
use culvert_pktgen::trial::Clue;
use culvert_pktgen::{Mistake, Profile};
use culvert_vhost::Offloads;

use super::ahead::Ahead;
use super::cores::{Cores, Waited};
use super::device::{Device, DeviceError};
use super::far::{FarEnd, WIRE};
use super::guest::Guest;
use super::own;
use super::rings::GuestOptions;
use super::sealed::{Left, Sealed, TRIAL_MAX};
use super::seat::{Place, Seat};
use super::stop::Stop;
use super::topology::{self, Plan, Topology};
use super::wire::Wire;

/// How long a device that has gone has to come back.
const COME_BACK: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(50);

/// The device under test.
#[derive(Clone, Debug)]
pub enum Target {
    /// A Culvert that is started for it.
    Own(Topology),
    /// One that is there: its vhost-user sockets, by the names of their seats.
    There(Vec<(String, PathBuf)>),
}

/// What a rig is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What is measured.
    pub target: Target,
    /// What is sent.
    pub profile: Profile,
    /// What guests are.
    pub guest: GuestOptions,
    /// Bytes that a trial may take that is sealed ahead.
    pub memory: usize,
    /// Where threads run.
    pub cores: Cores,
    /// Who may end it.
    pub stop: Stop,
}

/// Why there is nothing to measure, or nothing to measure it by.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The system.
    #[error(transparent)]
    System(#[from] io::Error),
    /// A seat.
    #[error("seat {seat} at {socket}: {error}; does a vhost-user backend listen there?", socket = .socket.display())]
    Seat {
        /// Which.
        seat: String,
        /// Where.
        socket: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// A seat's device has gone and did not come back.
    #[error("seat {seat} is gone: {error}")]
    Gone {
        /// Which.
        seat: String,
        /// What happened.
        error: io::Error,
    },
    /// What was asked for can't be.
    #[error("the profile has mistakes")]
    Profile(Vec<Mistake>),
    /// The kernel won't have the generator where it was to be.
    #[error("can't run on the generator's CPU: {0}")]
    Pin(io::Error),
}

/// Everything that is there before the first trial.
#[derive(Debug)]
pub struct Rig {
    setup: Setup,
    /// Those that were started for this.
    devices: Vec<Device>,
    /// The session, if what is sent leaves sealed: then the device's own count stands for a receiver.
    sealed: Option<Sealed>,
    /// The far end of its tunnel, until somebody sits there.
    far: Option<FarEnd>,
    plan: Plan,
}

impl Setup {
    /// With what the target adds to the profile.
    ///
    /// # Errors
    /// What the target can't have.
    pub fn completed(mut self) -> Result<Self, RigError> {
        topology::seat_streams(&mut self.profile, &self.target.ends());
        if self.target.has_tunnel() {
            sealed_within_a_session(&mut self.profile)?;
        }
        Ok(self)
    }

    /// Whether the memory holds trials of such rates and length, where they are sealed ahead.
    ///
    /// # Errors
    /// It does not.
    pub fn holds(&self, rates: &[f64], duration_s: f64) -> Result<(), RigError> {
        let streams = self.profile.streams.iter().zip(rates);
        // What the wire sends is, whichever way the others go.
        let sealed: Vec<f64> = streams
            .map(|(stream, rate)| if stream.from == WIRE { *rate } else { 0.0 })
            .collect();
        let packets_per_s: f64 = sealed.iter().sum();
        if !self.target.has_wire() || packets_per_s <= 0.0 {
            return Ok(());
        }
        let mean_bytes = self.profile.mean_lengths(&sealed).outer_bare_bytes;
        let holds_s = Ahead::holds_s(self.memory, packets_per_s, mean_bytes);
        if duration_s <= holds_s {
            return Ok(());
        }
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let (has, mpps) = (mib(self.memory as f64), packets_per_s / 1e6);
        let needs = has * duration_s / holds_s;
        let message = format!(
            "{duration_s} s at {mpps:.3} Mpps take {needs:.0} MiB, sealed: {has:.0} MiB hold {holds_s:.3} s"
        );
        let help = "make trials shorter, or slower, or allow more by `--memory`";
        let mistake = Mistake::new("duration", message).help(help);
        Err(RigError::Profile(vec![mistake]))
    }

    fn plan(&self, topology: Topology, way_out: &str) -> Plan {
        topology.plan(&self.profile, &self.cores, way_out)
    }
}

impl Rig {
    /// Starts what is to be measured, if it is ours to start.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(setup: Setup) -> Result<Self, RigError> {
        let Target::Own(topology) = setup.target else {
            return Ok(Self {
                setup,
                devices: Vec::new(),
                sealed: None,
                far: None,
                plan: Plan::default(),
            });
        };
        let sealed = match topology {
            Topology::V2v | Topology::P2w | Topology::T2p => None,
            Topology::P2t => Some(Sealed::new(setup.profile.mtu).map_err(DeviceError::System)?),
        };
        let far = match topology {
            Topology::V2v | Topology::P2t => None,
            Topology::P2w | Topology::T2p => {
                Some(FarEnd::new(tunnel(&setup.profile)).map_err(io::Error::other)?)
            }
        };
        let way_out = |on_nic| match (&sealed, &far) {
            (Some(sealed), _) => sealed.config(on_nic),
            (None, Some(far)) => far.config(),
            (None, None) => String::new(),
        };
        let secrets = sealed.iter().map(Sealed::key_file);
        let secrets: Vec<_> = secrets.chain(far.iter().map(FarEnd::key_file)).collect();
        let first = setup.plan(topology, &way_out(false));
        let device = Device::start(&first.config, &secrets, &setup.stop)?;
        Ok(Self {
            // What it is while it is measured.
            plan: setup.plan(topology, &way_out(true)),
            devices: vec![device],
            sealed,
            far,
            setup,
        })
    }

    /// The seats, once each of them has its link.
    ///
    /// # Errors
    /// Nobody is there to sit at.
    pub fn seats(&mut self) -> Result<Vec<Seat>, RigError> {
        let sockets = self.sockets();
        let seats = sockets
            .into_iter()
            .map(|(name, socket)| self.seat(name, socket));
        let mut seats: Vec<Seat> = seats.collect::<Result<_, _>>()?;
        seats.extend(self.wire()?);
        self.wait_for_guests()?;
        Ok(seats)
    }

    fn sockets(&self) -> Vec<(String, PathBuf)> {
        match (&self.setup.target, self.devices.first()) {
            (Target::There(seats), _) => seats.clone(),
            (Target::Own(topology), Some(device)) => {
                let seats = topology.guests().iter();
                let socket = |seat: &&str| device.socket(&format!("{seat}.sock"));
                seats.map(|seat| ((*seat).into(), socket(seat))).collect()
            }
            (Target::Own(_), None) => Vec::new(),
        }
    }

    fn seat(&self, name: String, socket: PathBuf) -> Result<Seat, RigError> {
        let Setup {
            profile,
            guest,
            stop,
            ..
        } = &self.setup;
        match Guest::connect(&socket, guest, own::longest(profile), stop) {
            Ok(guest) => {
                negotiated(profile, &name, guest.offloads())?;
                Ok(Seat::new(&name, Place::Guest(guest), profile))
            }
            Err(error) => Err(RigError::Seat {
                seat: name,
                socket,
                error,
            }),
        }
    }

    /// The seat at the far end of the tunnel, if there is one.
    fn wire(&mut self) -> Result<Option<Seat>, RigError> {
        let Some((far, device)) = self.far.take().zip(self.devices.first()) else {
            return Ok(None);
        };
        let setup = &self.setup;
        let socket = device.wire_socket();
        let wire = Wire::connect(&socket, far, setup.memory, setup.stop.clone());
        let wire = wire.map_err(|error| RigError::Seat {
            seat: WIRE.into(),
            socket,
            error,
        })?;
        negotiated(&setup.profile, WIRE, Offloads::empty())?;
        let place = Place::Wire(Box::new(wire));
        Ok(Some(Seat::new(WIRE, place, &setup.profile)))
    }

    fn wait_for_guests(&mut self) -> Result<(), DeviceError> {
        let mut devices = self.devices.iter_mut();
        devices.try_for_each(|it| it.wait_for_guests(&self.setup.stop))
    }

    /// Sees to a session that is good for a trial, where one is needed; whether it is a new one.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn ready(&mut self, trial: Duration) -> Result<bool, DeviceError> {
        let setup = &self.setup;
        let (Some(sealed), Some(device), Target::Own(topology)) =
            (&mut self.sealed, self.devices.first_mut(), &setup.target)
        else {
            return Ok(false);
        };
        let config = |way_out: &str| setup.plan(*topology, way_out).config;
        sealed.ready(device, trial, config, &setup.stop)
    }

    /// Whether the device's own count stands for a receiver.
    #[must_use]
    pub const fn is_told(&self) -> bool {
        self.sealed.is_some()
    }

    /// What has left sealed so far; `None`: the device does not tell, or nothing is to leave so.
    #[must_use]
    pub fn left(&self) -> Option<Left> {
        self.sealed.as_ref()?;
        self.devices.first().and_then(Left::look)
    }

    /// All that devices lost so far, by place and reason.
    #[must_use]
    pub fn drops(&self) -> Vec<Clue> {
        self.devices.iter().flat_map(Device::drops).collect()
    }

    /// How long workers were kept from their processors so far; nothing where that is the generator's, too: they take turns.
    #[must_use]
    pub fn waited(&self) -> Waited {
        let device = self.devices.first();
        let device = device.filter(|_| !self.setup.cores.is_shared());
        device.map(Device::waited).unwrap_or_default()
    }

    /// A device that has gone is waited for, or started again, and sat at anew; whether one was started again.
    ///
    /// # Errors
    /// It does not come back.
    pub fn recover(&mut self, seats: &mut [Seat]) -> Result<bool, RigError> {
        let mut is_anew = false;
        for device in &mut self.devices {
            is_anew |= device.revive(&self.setup.stop)?;
        }
        if let Some(sealed) = self.sealed.as_mut().filter(|_| is_anew) {
            sealed.lost();
        }
        let until = Instant::now() + COME_BACK;
        for seat in seats {
            while let Err(error) = seat.reconnect() {
                if Instant::now() > until || self.setup.stop.is_asked() {
                    let seat = seat.name.clone();
                    return Err(RigError::Gone { seat, error });
                }
                thread::sleep(AGAIN);
            }
        }
        self.wait_for_guests()?;
        Ok(is_anew)
    }

    /// What it is made of.
    #[must_use]
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What the device is, while it is measured.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// Frames leave sealed, so results have outer figures; a trial ends before its session.
fn sealed_within_a_session(profile: &mut Profile) -> Result<(), RigError> {
    profile.tunnel = Some(tunnel(profile));
    if u128::from(profile.duration_ns) <= TRIAL_MAX.as_nanos() {
        return Ok(());
    }
    let message = format!("is longer than {} s", TRIAL_MAX.as_secs());
    let help = "a session ends after 180 s, and hands are shaken between trials alone: take several `--trials`";
    let mistake = Mistake::new("duration", message).help(help);
    Err(RigError::Profile(vec![mistake]))
}

/// What a profile says of it, or IPv4 outside.
fn tunnel(profile: &Profile) -> Tunnel {
    profile.tunnel.unwrap_or(Tunnel {
        ipv6: false,
        mtu: profile.mtu,
    })
}

/// What streams leave to the device has to be what it offers.
fn negotiated(profile: &Profile, seat: &str, offloads: Offloads) -> Result<(), RigError> {
    let wrong = |path: String, what: &str| {
        let message = format!("seat {seat} has not negotiated {what}");
        let mistake = Mistake::new(path, message).help("leave it out, or `--offloads none`");
        RigError::Profile(vec![mistake])
    };
    for stream in profile.streams.iter().filter(|it| it.from == seat) {
        if stream.checksums == Checksums::Partial && !offloads.contains(Offloads::CSUM) {
            return Err(wrong(
                format!("{}.checksum", stream.path),
                "partial checksums",
            ));
        }
        if stream.segment.is_some()
            && !offloads.intersects(Offloads::HOST_TSO4 | Offloads::HOST_USO)
        {
            return Err(wrong(format!("{}.segment", stream.path), "segmentation"));
        }
    }
    Ok(())
}

impl Target {
    /// Its name at the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Own(topology) => topology.name(),
            Self::There(_) => "run",
        }
    }

    /// The same where a profile names its seats: a guest's packets into a tunnel go to nobody, or to a wire.
    #[must_use]
    pub fn of(self, profile: &Profile) -> Self {
        let is_on_wire = profile.streams.iter().any(|it| it.to == WIRE);
        match self {
            Self::Own(Topology::P2t) if is_on_wire => Self::Own(Topology::P2w),
            Self::Own(_) | Self::There(_) => self,
        }
    }

    /// What streams may go from and to.
    #[must_use]
    pub fn ends(&self) -> Vec<String> {
        match self {
            Self::Own(topology) => topology.ends().iter().map(ToString::to_string).collect(),
            Self::There(seats) => seats.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// Whether packets are sealed on one side of the device.
    const fn has_tunnel(&self) -> bool {
        matches!(
            self,
            Self::Own(Topology::P2t | Topology::P2w | Topology::T2p)
        )
    }

    /// Whether a seat is at a wire, which seals ahead what it sends.
    const fn has_wire(&self) -> bool {
        matches!(self, Self::Own(Topology::P2w | Topology::T2p))
    }

    /// Whether frames leave sealed, to nobody who could receive them.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        matches!(self, Self::Own(Topology::P2t))
    }
}
