//! THREAD (RFC 5256 §3): ORDEREDSUBJECT and REFERENCES, as pure functions of what is known of messages.
//!
//! Owns the trees. Nothing recurses and no chain is walked again and again: references of strangers
//! may be as long and as tangled as they like. At most [`REFERENCES_MAX`] of a message count.

use crate::imap::set::number;
use hashbrown::HashMap;

/// References of one message that count; of more, the last ones.
pub const REFERENCES_MAX: usize = 200;

/// What is known of a message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// What is answered for it: message sequence number or UID. Messages come in ascending order.
    pub number: u32,
    /// Date of sending in seconds since 1970, UTC; INTERNALDATE if there is none that can be read.
    pub date: i64,
    /// Base subject, mapped by [`super::sort::base_subject`].
    pub subject: Box<[u8]>,
    /// The subject was that of a reply or a forward.
    pub is_reply: bool,
    /// Message-ID as [`ids`] gives it; empty if there is none.
    pub id: Box<[u8]>,
    /// References, or else the first id of In-Reply-To, as [`ids`] gives them.
    pub references: Vec<Box<[u8]>>,
}

/// The message ids in the value of a field, without brackets and quotes. Anything else is passed over.
pub fn ids(value: &[u8]) -> impl Iterator<Item = Box<[u8]>> + '_ {
    let mut rest = value;
    std::iter::from_fn(move || {
        loop {
            let open = memchr::memchr(b'<', rest)?;
            let inner = &rest[open + 1..];
            let close = memchr::memchr(b'>', inner)?;
            rest = &inner[close + 1..];
            // RFC 5256 §3: compared as they would be without quotes where none are needed.
            let id: Vec<u8> =
                inner[..close].iter().copied().filter(|b| !matches!(b, b'"' | b'\\') && *b > b' ').collect();
            if !id.is_empty() {
                return Some(id.into());
            }
        }
    })
}

/// Threads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forest {
    /// Number of each node; `None` for a parent that is not there.
    numbers: Vec<Option<u32>>,
    /// Children of each node, in their order.
    children: Vec<Vec<u32>>,
    /// Nodes without parent, in their order.
    roots: Vec<u32>,
}

impl Forest {
    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    fn add(&mut self, number: Option<u32>) -> u32 {
        self.numbers.push(number);
        self.children.push(Vec::new());
        (self.numbers.len() - 1) as u32
    }

    /// Appends them in the form of THREAD (RFC 5256 §5 `thread-data`).
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut steps: Vec<Step> = Vec::new();
        for root in &self.roots {
            steps.extend([Step::Close, Step::Node(*root), Step::Open]);
            // A number stands before: a space belongs in between.
            let mut behind_number = false;
            while let Some(step) = steps.pop() {
                match step {
                    Step::Open => out.push(b'('),
                    Step::Close => out.push(b')'),
                    Step::Node(node) => {
                        let children = &self.children[node as usize];
                        if let Some(n) = self.numbers[node as usize] {
                            if behind_number {
                                out.push(b' ');
                            }
                            number(out, u64::from(n));
                            behind_number = true;
                        }
                        if let [only] = children[..] {
                            steps.push(Step::Node(only));
                            continue;
                        }
                        if behind_number && !children.is_empty() {
                            out.push(b' ');
                        }
                        for child in children.iter().rev() {
                            steps.extend([Step::Close, Step::Node(*child), Step::Open]);
                        }
                    }
                }
                behind_number &= matches!(step, Step::Node(_)) && matches!(steps.last(), Some(Step::Node(_)));
            }
        }
    }
}

/// What is left to write of a forest.
enum Step {
    Open,
    Close,
    Node(u32),
}

/// ORDEREDSUBJECT: messages of one base subject are a thread, the earliest its root, the others below
/// it. Threads by the date of their root.
#[must_use]
pub fn ordered_subject(messages: &[Message]) -> Forest {
    let mut order: Vec<&Message> = messages.iter().collect();
    order.sort_by(|a, b| a.subject.cmp(&b.subject).then(a.date.cmp(&b.date)).then(a.number.cmp(&b.number)));
    let mut forest = Forest::default();
    let mut threads: Vec<(i64, u32, u32)> = Vec::new();
    let mut current: Option<(&[u8], u32)> = None;
    for message in order {
        let node = forest.add(Some(message.number));
        match current {
            Some((subject, root)) if subject == &message.subject[..] => {
                forest.children[root as usize].push(node);
            }
            _ => {
                threads.push((message.date, message.number, node));
                current = Some((&message.subject, node));
            }
        }
    }
    threads.sort_unstable();
    forest.roots = threads.into_iter().map(|t| t.2).collect();
    forest
}

/// REFERENCES.
#[must_use]
pub fn references(messages: &[Message]) -> Forest {
    let links = Links::of(messages);
    let mut forest = links.forest(messages);
    prune(&mut forest);
    let mut dates = vec![0; forest.numbers.len()];
    dates[..messages.len()].iter_mut().zip(messages).for_each(|(d, m)| *d = m.date);
    gather_subjects(&mut forest, messages, &mut dates);
    sort_siblings(&mut forest, &dates);
    forest
}

/// No parent.
const NONE: u32 = u32::MAX;

/// Who is whose parent. The first nodes are the messages, the others ids that are only referred to.
struct Links {
    parents: Vec<u32>,
    /// Towards the root of the tree, shortened at each look: finds loops without walking chains.
    towards_root: Vec<u32>,
}

impl Links {
    /// Step 1 of RFC 5256 §3. A message's own last reference decides about its parent; chains in the
    /// references of others decide only about those that have been seen (and have no parent) or are not
    /// there. That is what its order of steps amounts to, without taking links back.
    fn of(messages: &[Message]) -> Self {
        let count = messages.len();
        let mut links = Links { parents: vec![NONE; count], towards_root: (0..count as u32).collect() };
        let mut nodes: HashMap<&[u8], u32> = HashMap::with_capacity(count);
        for (i, message) in messages.iter().enumerate() {
            if !message.id.is_empty() {
                // Of several messages with one id the first has it, the others have none.
                nodes.entry(&message.id[..]).or_insert(i as u32);
            }
        }
        for (i, message) in messages.iter().enumerate() {
            let from = message.references.len().saturating_sub(REFERENCES_MAX);
            let mut before = NONE;
            for id in &message.references[from..] {
                let node = *nodes.entry(&id[..]).or_insert_with(|| {
                    links.parents.push(NONE);
                    links.towards_root.push(links.parents.len() as u32 - 1);
                    links.parents.len() as u32 - 1
                });
                let settled = (node as usize) < i || node as usize >= count;
                if before != NONE && settled {
                    links.link(before, node);
                }
                before = node;
            }
            if before != NONE {
                links.link(before, i as u32);
            }
        }
        links
    }

    fn root(&mut self, mut node: u32) -> u32 {
        while self.towards_root[node as usize] != node {
            let next = self.towards_root[node as usize];
            self.towards_root[node as usize] = self.towards_root[next as usize];
            node = self.towards_root[node as usize];
        }
        node
    }

    /// Makes `child` a child of `parent`, unless it has a parent or that would be a loop.
    fn link(&mut self, parent: u32, child: u32) {
        // Without a parent, `child` is the root of its tree.
        if self.parents[child as usize] == NONE && self.root(parent) != child {
            self.parents[child as usize] = parent;
            self.towards_root[child as usize] = parent;
        }
    }

    /// Step 2: what has no parent is a root.
    fn forest(&self, messages: &[Message]) -> Forest {
        let mut forest = Forest::default();
        for node in 0..self.parents.len() {
            forest.add(messages.get(node).map(|m| m.number));
        }
        for (node, parent) in self.parents.iter().enumerate() {
            match *parent {
                NONE => forest.roots.push(node as u32),
                parent => forest.children[parent as usize].push(node as u32),
            }
        }
        forest
    }
}

/// All nodes, each before its children.
fn top_down(forest: &Forest) -> Vec<u32> {
    let mut order = forest.roots.clone();
    let mut at = 0;
    while let Some(node) = order.get(at).copied() {
        order.extend_from_slice(&forest.children[node as usize]);
        at += 1;
    }
    order
}

/// Step 3: parents that are not there go, and their children take their place; but among the roots only
/// an only child does.
fn prune(forest: &mut Forest) {
    for node in top_down(forest).into_iter().rev() {
        let children = std::mem::take(&mut forest.children[node as usize]);
        forest.children[node as usize] = without_absent(forest, children);
    }
    let roots = std::mem::take(&mut forest.roots);
    for root in roots {
        match (forest.numbers[root as usize], &forest.children[root as usize][..]) {
            (None, []) => {}
            (None, [only]) => forest.roots.push(*only),
            _ => forest.roots.push(root),
        }
    }
}

fn without_absent(forest: &mut Forest, children: Vec<u32>) -> Vec<u32> {
    if children.iter().all(|c| forest.numbers[*c as usize].is_some()) {
        return children;
    }
    let mut kept = Vec::with_capacity(children.len());
    for child in children {
        match forest.numbers[child as usize] {
            Some(_) => kept.push(child),
            // Its own children have been through this.
            None => kept.append(&mut forest.children[child as usize]),
        }
    }
    kept
}

/// Steps 4 and 5: roots in the order of their dates; those of one base subject come together.
fn gather_subjects(forest: &mut Forest, messages: &[Message], dates: &mut Vec<i64>) {
    // Only roots can be absent now, and their children are there.
    for root in forest.roots.clone() {
        sort_children(forest, dates, root);
        if forest.numbers[root as usize].is_none() {
            dates[root as usize] = dates[forest.children[root as usize][0] as usize];
        }
    }
    sort_roots(forest, dates);
    let shown = |forest: &Forest, root: u32| match forest.numbers[root as usize] {
        Some(_) => root as usize,
        None => forest.children[root as usize][0] as usize,
    };
    let mut table: HashMap<&[u8], u32> = HashMap::new();
    for root in forest.roots.clone() {
        let message = &messages[shown(forest, root)];
        if message.subject.is_empty() {
            continue;
        }
        let entry = table.entry(&message.subject[..]).or_insert(root);
        let absent = |node: u32| forest.numbers[node as usize].is_none();
        let replaces = !absent(*entry) && absent(root)
            || absent(*entry) == absent(root)
                && messages[shown(forest, *entry)].is_reply
                && !message.is_reply;
        if *entry != root && replaces {
            *entry = root;
        }
    }
    let mut gone = vec![false; forest.numbers.len()];
    for root in forest.roots.clone() {
        if gone[root as usize] {
            continue;
        }
        let message = &messages[shown(forest, root)];
        let Some(with) = table.get(&message.subject[..]).copied().filter(|with| *with != root) else {
            continue;
        };
        let (absent, with_absent) =
            (forest.numbers[root as usize].is_none(), forest.numbers[with as usize].is_none());
        let with_reply = messages[shown(forest, with)].is_reply;
        if absent && with_absent {
            let mut children = std::mem::take(&mut forest.children[root as usize]);
            forest.children[with as usize].append(&mut children);
        } else if with_absent || message.is_reply && !with_reply {
            forest.children[with as usize].push(root);
        } else {
            // Both become children of a parent that is not there, in the place of the first.
            let both = forest.add(None);
            forest.children[both as usize] = vec![with, root];
            dates.push(dates[with as usize].min(dates[root as usize]));
            gone.push(false);
            gone[with as usize] = true;
            forest.roots.push(both);
            table.insert(&message.subject[..], both);
        }
        gone[root as usize] = true;
    }
    forest.roots.retain(|root| !gone[*root as usize]);
}

fn sort_children(forest: &mut Forest, dates: &[i64], node: u32) {
    let mut children = std::mem::take(&mut forest.children[node as usize]);
    // Equal dates: in the order of the mailbox; absent ones are never among children that matter.
    children.sort_by_key(|c| (dates[*c as usize], forest.numbers[*c as usize]));
    forest.children[node as usize] = children;
}

fn sort_roots(forest: &mut Forest, dates: &[i64]) {
    let mut roots = std::mem::take(&mut forest.roots);
    roots.sort_by_key(|r| {
        let first = forest.children[*r as usize].first().and_then(|c| forest.numbers[*c as usize]);
        (dates[*r as usize], forest.numbers[*r as usize].or(first))
    });
    forest.roots = roots;
}

/// Step 6: brothers and sisters by date, at every level; a parent that is not there has the date of its
/// first child.
fn sort_siblings(forest: &mut Forest, dates: &[i64]) {
    let mut dates = dates.to_vec();
    for node in top_down(forest).into_iter().rev() {
        sort_children(forest, &dates, node);
        if let (None, Some(first)) = (forest.numbers[node as usize], forest.children[node as usize].first()) {
            dates[node as usize] = dates[*first as usize];
        }
    }
    sort_roots(forest, &dates);
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
