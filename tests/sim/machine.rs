//! A machine: one node of the world with an address and a disk, and the runtime it offers.
//!
//! [`SimRuntime`] is what the product sees; it must never learn that it is simulated. The wall
//! clock may be set wrong here. Nothing fails except through disk and net.

use crate::disk::SimDisk;
use crate::net::{SimListener, SimNet, SimStream};
use crate::world::{Death, MS, Node, World};
use ringpost::base::time::{Mono, Wall};
use ringpost::runtime::moving::Moving;
use ringpost::runtime::{Clock, Disk, Entropy, Net, OpenAs, Runtime, TableOptions};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;

/// 2026-01-01, so that dates look like dates.
const EPOCH: u64 = 1_767_225_600_000;

/// Hardware that survives the processes on it.
#[derive(Clone)]
pub struct Machine {
    world: World,
    node: Node,
    net: SimNet,
    /// Its disk.
    pub disk: SimDisk,
    wall_shift: Rc<Cell<i64>>,
}

impl Machine {
    /// Machine number `node` (not 0), with an empty disk.
    pub fn new(world: &World, net: &SimNet, node: Node) -> Self {
        let disk = SimDisk::new(world);
        Machine { world: world.clone(), node, net: net.clone(), disk, wall_shift: Rc::default() }
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + self.node))
    }

    /// Power on, or the next process: a runtime for it.
    pub fn boot(&self) -> SimRuntime {
        self.net.set_dark(self.ip(), false);
        self.disk.forget_failures();
        SimRuntime(self.clone())
    }

    /// Ends what runs on it.
    pub fn kill(&self, how: Death) {
        self.world.kill(self.node, how);
        self.net.forget_parked(self.ip());
        if how == Death::Power {
            self.net.set_dark(self.ip(), true);
            self.disk.power_off();
        }
    }

    /// Sets the wall clock wrong by this many milliseconds, either way.
    pub fn set_wall_shift(&self, milliseconds: i64) {
        self.wall_shift.set(milliseconds);
    }
}

/// The runtime of one machine.
#[derive(Clone)]
pub struct SimRuntime(Machine);

impl SimRuntime {
    /// Binds `port` of this machine.
    pub fn listen(&self, port: u16) -> SimListener {
        self.0.net.listen(SocketAddr::new(self.0.ip(), port))
    }

    /// The world it is in.
    pub fn world(&self) -> &World {
        &self.0.world
    }
}

impl Runtime for SimRuntime {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.world.spawn(self.0.node, task);
    }
}

impl Clock for SimRuntime {
    fn now(&self) -> Mono {
        Mono(self.0.world.now())
    }

    fn wall(&self) -> Wall {
        Wall((EPOCH + self.0.world.now() / MS).saturating_add_signed(self.0.wall_shift.get()))
    }

    fn sleep_until(&self, at: Mono) -> impl Future<Output = ()> + 'static {
        let world = self.0.world.clone();
        let left = at.0.saturating_sub(world.now()).min(u64::MAX / 4);
        async move {
            if left > 0 {
                world.pause(left.div_ceil(MS) * MS).await;
            }
        }
    }
}

impl Entropy for SimRuntime {
    fn fill(&self, out: &mut [u8]) {
        out.fill_with(|| self.0.world.below(256) as u8);
    }
}

impl Net for SimRuntime {
    type Stream = SimStream;
    type Listener = SimListener;

    async fn connect(&self, to: SocketAddr, source: Option<IpAddr>, deadline: Mono) -> io::Result<SimStream> {
        self.0.net.connect(source.unwrap_or(self.0.ip()), to, deadline).await
    }
}

impl Moving for SimRuntime {
    type Packed = u64;

    fn pack(&self, stream: SimStream) -> Result<u64, (io::Error, SimStream)> {
        if self.0.world.chance(100) {
            return Err((io::ErrorKind::Other.into(), stream));
        }
        Ok(self.0.net.park(stream))
    }

    fn unpack(&self, packed: u64) -> io::Result<SimStream> {
        self.0.net.unpark(packed).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Disk for SimRuntime {
    type File = crate::disk::SimFile;
    type Table = crate::disk::SimTable;

    async fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<()> {
        self.0.disk.create_zeroed(path, len).await
    }

    async fn open(&self, path: &Path, how: OpenAs) -> io::Result<Self::File> {
        self.0.disk.open(path, how).await
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.disk.create_dir(path).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        self.0.disk.list(dir).await
    }

    async fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.disk.list_dirs(dir).await
    }

    async fn rename_dir(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.disk.rename_dir(from, to).await
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.disk.remove_dir(path).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.disk.remove(path).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.disk.sync_dir(dir).await
    }

    async fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.0.disk.free_bytes(path).await
    }

    async fn open_table(&self, path: &Path, options: TableOptions) -> io::Result<Self::Table> {
        self.0.disk.open_table(path, options).await
    }
}
