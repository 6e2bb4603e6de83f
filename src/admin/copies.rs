//! L5: copies of mailbox shards, which the access cores make while they serve, one core after the other.
//!
//! Knows nothing of what is in them. A shard that could not be copied ends the request, with the reason.

use super::control::{Conversation, Queues};
use super::wire::Line;
use serde_json::json;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long the copies of one core's shards may take.
const COPY: Duration = Duration::from_secs(24 * 3600);

impl<Q: Queues> Conversation<'_, Q> {
    pub(super) async fn backup_mailboxes(&mut self, dir: PathBuf) -> io::Result<()> {
        let mut shards = 0;
        for core in self.queues.count()..self.queues.cores() {
            let asked = self.queues.ask_backup(core, dir.clone());
            let Some(copied) = tokio::time::timeout(COPY, asked).await.ok().flatten() else {
                return self.out.error("a core did not make its copies: it ends, or has ended", 75).await;
            };
            for (shard, copied) in copied {
                match copied {
                    Ok(bytes) => {
                        self.out.line(Line::Copied(json!({ "shard": shard, "bytes": bytes }))).await?;
                    }
                    Err(why) => {
                        return self.out.error(&format!("shard {shard:04}: {why}"), 73).await;
                    }
                }
                shards += 1;
            }
        }
        self.office.tell(&self.who, "backup", shards, &dir.display().to_string(), "");
        Ok(())
    }
}
