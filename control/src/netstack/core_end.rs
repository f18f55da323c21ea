//! The control core's end.
//!
//! In: stacks as they come, change and go, likewise guests, questions. Out: the same to the thread; its news, and what it hears. Never: a wait, except for its
//! end.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
};

use arc_swap::ArcSwap;
use culvert_dataplane::shared::{
    control_link::Attention,
    ids::{AttachmentIndex, Scope},
    limits::{STACK_HEARD, STACK_NEWS, STACK_ORDERS, STACK_ORDERS_RESERVED},
    stack_link::StackEnd,
    wake::Wake,
};
use culvert_stack::Learned;
use rtrb::{Consumer, Producer, RingBuffer};

use super::{
    Guest, Guests, HeardIn, Host, Hosts, News, Order, Question, Shared, Taught, Told,
    server::Server,
};
use crate::{
    api::{Reply, arrivals::Arrivals},
    report::look::NeighborSight,
};

/// The thread, seen from the control core.
pub(crate) struct NetStack {
    shared: Arc<Shared>,
    stacks: BTreeMap<Scope, Arc<Host>>,
    /// Those whose servers of names are others now.
    renamed: BTreeSet<Scope>,
    guests: Guests,
    generation: u64,
    is_published: bool,
    births: u64,
    orders: Producer<Order>,
    news: Consumer<News>,
    heard: Consumer<HeardIn>,
    /// What was taken of what stacks have learned.
    taught: Arc<Taught>,
    thread: Option<JoinHandle<()>>,
}

impl NetStack {
    /// Both ends, without a thread.
    pub(crate) fn new(core: Arc<Attention>) -> io::Result<(Self, Server)> {
        let shared = Arc::new(Shared {
            wake: Arc::new(Wake::new()?),
            hosts: ArcSwap::default(),
            taught: ArcSwap::default(),
            adopted: AtomicU64::new(0),
            ends: AtomicBool::new(false),
        });
        let (orders, taken) = RingBuffer::new(STACK_ORDERS);
        let (told, news) = RingBuffer::new(STACK_NEWS);
        let (overheard, heard) = RingBuffer::new(STACK_HEARD);
        let server = Server::new(Arc::clone(&shared), core, (taken, told, overheard));
        let taught = shared.taught.load_full();
        let end = Self {
            shared,
            stacks: BTreeMap::new(),
            renamed: BTreeSet::new(),
            guests: Guests::default(),
            generation: 0,
            is_published: true,
            births: 0,
            orders,
            news,
            heard,
            taught,
            thread: None,
        };
        Ok((end, server))
    }

    /// Starts the thread, which waits for its links to workers.
    pub(crate) fn start(
        core: Arc<Attention>,
        arrivals: Arrivals,
    ) -> io::Result<(Self, Sender<Vec<StackEnd>>)> {
        let (mut end, mut server) = Self::new(core)?;
        server.hand_to(arrivals);
        let (links, workers) = channel();
        let thread = thread::Builder::new().name("netstack".into());
        let thread = thread.spawn(move || {
            if let Ok(workers) = workers.recv() {
                server.link(workers);
                server.hear_kernel();
                server.run();
            }
        })?;
        end.thread = Some(thread);
        Ok((end, links))
    }

    /// The thread's doorbell.
    pub(crate) fn wake(&self) -> &Arc<Wake> {
        &self.shared.wake
    }

    /// A stack begins, in the place of the one that the scope had: it knows no neighbors.
    pub(crate) fn insert(&mut self, scope: Scope, host: Host) {
        self.births += 1;
        let birth = self.births;
        self.put(scope, Host { birth, ..host });
    }

    /// A stack goes by something else from now on: it keeps what it knows of neighbors that stay its neighbors.
    pub(crate) fn change(&mut self, scope: Scope, host: Host) {
        let before = self.stacks.get(&scope);
        let birth = before.map_or(self.births, |before| before.birth);
        self.put(scope, Host { birth, ..host });
    }

    fn put(&mut self, scope: Scope, host: Host) {
        let servers = host.nameservers.clone();
        let before = self.stacks.insert(scope, Arc::new(host));
        if before.map_or(Vec::new(), |before| before.nameservers.clone()) != servers {
            self.renamed.insert(scope);
        }
        self.is_published = false;
    }

    /// A stack ends.
    pub(crate) fn remove(&mut self, scope: Scope) {
        self.is_published &= self.stacks.remove(&scope).is_none();
    }

    /// The guest that is attached there has this from now on; `None`: there is none.
    pub(crate) fn attach(&mut self, at: usize, guest: Option<Guest>) {
        self.guests.attach(at, guest);
        self.is_published = false;
    }

    /// The network tells its guests this from now on; whether that is something new.
    pub(crate) fn tell(&mut self, network: usize, told: Option<Told>) -> bool {
        let is_new = self.guests.tell(network, told);
        self.is_published &= !is_new;
        is_new
    }

    /// The stack that a scope is to have.
    pub(crate) fn get(&self, scope: Scope) -> Option<&Host> {
        self.stacks.get(&scope).map(Arc::as_ref)
    }

    /// The same stacks, without the thread that they had: whoever has the other end serves them.
    #[cfg(test)]
    pub(crate) fn serve_by_hand(&mut self, core: Arc<Attention>) -> Server {
        let (mut end, server) = Self::new(core).expect("a doorbell");
        end.stacks = std::mem::take(&mut self.stacks);
        end.guests = std::mem::take(&mut self.guests);
        end.births = self.births;
        end.is_published = false;
        *self = end;
        server
    }

    /// A thread serves them again.
    #[cfg(test)]
    pub(crate) fn serve_on_thread(&mut self, server: Server) {
        self.thread = Some(thread::spawn(move || server.run()));
    }

    /// How many stacks there are to be.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.stacks.len()
    }

    /// Tells the thread what has changed.
    pub(crate) fn publish(&mut self) {
        if std::mem::replace(&mut self.is_published, true) {
            return;
        }
        self.generation += 1;
        self.shared.hosts.store(Arc::new(Hosts {
            generation: self.generation,
            stacks: self.stacks.clone(),
            guests: self.guests.clone(),
        }));
        self.shared.wake.notify();
    }

    /// The generation that has all that was changed up to now.
    pub(crate) fn generation(&self) -> u64 {
        self.generation + u64::from(!self.is_published)
    }

    /// The generation by which the thread goes: nothing of stacks that those before it had reaches a worker any more.
    pub(crate) fn adopted(&self) -> u64 {
        self.shared.adopted.load(Ordering::Acquire)
    }

    /// Asks where a next hop is; `false` if the thread is so far behind that it can't be asked.
    pub(crate) fn ask(&mut self, scope: Scope, next_hop: IpAddr) -> bool {
        let has_room = self.orders.slots() > STACK_ORDERS_RESERVED;
        has_room && self.order(Order::Ask(scope, next_hop))
    }

    /// Nothing is sent to a next hop any more; `false` if the thread is so far behind that it is to be told another time: half of
    /// the room is left to questions.
    pub(crate) fn let_go(&mut self, scope: Scope, next_hop: IpAddr) -> bool {
        let has_room = self.orders.slots() > STACK_ORDERS / 2;
        has_room && self.order(Order::LetGo(scope, next_hop))
    }

    /// Asks the scope's servers for a name: an answer follows, by whatever way the question is lost.
    pub(crate) fn look_up(&mut self, scope: Scope, question: Question) {
        if self.orders.slots() > STACK_ORDERS_RESERVED {
            self.order(Order::LookUp(scope, question));
        }
    }

    /// Those whose servers of names are others since the last call.
    pub(crate) fn take_renamed(&mut self) -> BTreeSet<Scope> {
        std::mem::take(&mut self.renamed)
    }

    /// The link of a scope has come up: its addresses are announced there. When the thread is that far behind, they are
    /// announced the next time.
    pub(crate) fn link_came_up(&mut self, scope: Scope) {
        self.order(Order::LinkUp(scope));
    }

    /// Has a next hop asked whether it is still there, unless it has said so lately; when the thread is far behind, it is
    /// asked the next time.
    pub(crate) fn verify(&mut self, scope: Scope, next_hop: IpAddr) {
        if self.orders.slots() > STACK_ORDERS_RESERVED {
            self.order(Order::Verify(scope, next_hop));
        }
    }

    /// Has a reader told of all neighbors; one for whom there is no room hears that there is no answer.
    pub(crate) fn tell_neighbors(&mut self, reply: Reply<Vec<NeighborSight>>) {
        self.order(Order::Neighbors(reply));
    }

    /// Has these guests hear their routers; when the thread is far behind, they hear them the next time.
    pub(crate) fn advertise(&mut self, guests: Vec<AttachmentIndex>) {
        if self.orders.slots() > STACK_ORDERS_RESERVED {
            self.order(Order::Advertise(guests));
        }
    }

    fn order(&mut self, order: Order) -> bool {
        let taken = self.orders.push(order).is_ok();
        self.shared.wake.notify();
        taken
    }

    /// The oldest piece of news that is not of a stack that has ended.
    pub(crate) fn next_news(&mut self) -> Option<News> {
        loop {
            let news = self.news.pop().ok()?;
            let stack = self.stacks.get(&news.scope);
            if stack.is_some_and(|stack| stack.birth == news.birth) {
                return Some(news);
            }
        }
    }

    /// The oldest error about a datagram that says to be ours, and the scope that it was heard in; none is the kernel's.
    pub(crate) fn next_heard(&mut self) -> Option<HeardIn> {
        self.heard.pop().ok()
    }

    /// What the scope's stack, and none before it, has learned of itself.
    pub(crate) fn taught(&self, scope: Scope) -> Option<&Arc<Learned>> {
        let birth = self.stacks.get(&scope)?.birth;
        let (of, learned) = self.taught.get(&scope)?;
        (*of == birth).then_some(learned)
    }

    /// Takes what stacks have learned since; whether that is anything.
    pub(crate) fn take_taught(&mut self) -> bool {
        let taught = self.shared.taught.load();
        let is_new = !Arc::ptr_eq(&taught, &self.taught);
        if is_new {
            self.taught = Arc::clone(&taught);
        }
        is_new
    }

    /// Whether the thread has ended without being asked to.
    pub(crate) fn is_dead(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Ends the thread.
    pub(crate) fn stop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        self.shared.wake.notify();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the host stacks' thread panicked");
        }
    }
}

impl Drop for NetStack {
    fn drop(&mut self) {
        self.stop();
    }
}
