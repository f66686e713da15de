//! Makes Maglev tables on a thread of its own, so that the loop never waits for them.

use std::{
    collections::VecDeque,
    io,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use tokio::sync::mpsc;

use crate::{
    delta::tables::{List, Table},
    programmer::{TableJob, Ticket},
};

/// Computing tables with this many entries in all takes a fraction of a millisecond, so they need no other thread.
pub const FEW_ENTRIES: usize = 16_384;

/// The loop's side of the thread. The thread ends when this is dropped.
#[derive(Debug)]
pub struct TableMaker {
    jobs: Sender<TableJob>,
    made: mpsc::UnboundedReceiver<Made>,
}

/// All tables of one job.
#[derive(Debug)]
pub struct Made {
    /// The plan that the tables are for.
    pub ticket: Ticket,
    /// The tables.
    pub tables: Vec<Table>,
}

impl TableMaker {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, todo) = channel();
        let (done, made) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("tables".to_owned())
            .spawn(move || work(&todo, &done))?;
        Ok(Self { jobs, made })
    }

    /// Hands jobs to the thread.
    pub fn make(&self, jobs: impl IntoIterator<Item = TableJob>) {
        for job in jobs {
            if self.jobs.send(job).is_err() {
                tracing::error!(
                    "the thread that makes Maglev tables is gone: this is a bug, please report it"
                );
            }
        }
    }

    /// The tables of the next job that is done.
    pub async fn made(&mut self) -> Made {
        match self.made.recv().await {
            Some(made) => made,
            // The thread is gone. Plans that wait for it make the agent unhealthy.
            None => std::future::pending().await,
        }
    }
}

/// Makes one table of each job in turn, so that a job with many tables does not delay other jobs. Drops a job if no plan
/// waits for it any more.
fn work(todo: &Receiver<TableJob>, done: &mpsc::UnboundedSender<Made>) {
    let mut queue: VecDeque<(TableJob, Vec<Table>)> = VecDeque::new();
    loop {
        if queue.is_empty() {
            let Ok(job) = todo.recv() else { return };
            queue.push_back((job, Vec::new()));
        }
        queue.extend(todo.try_iter().map(|job| (job, Vec::new())));
        let Some((mut job, mut tables)) = queue.pop_front() else {
            continue;
        };
        if !job.ticket.is_valid() {
            continue;
        }
        tables.extend(job.lists.pop().and_then(List::table));
        if !job.lists.is_empty() {
            queue.push_back((job, tables));
            continue;
        }
        let ticket = job.ticket;
        if done.send(Made { ticket, tables }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
