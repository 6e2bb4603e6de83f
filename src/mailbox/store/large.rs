//! L4: content that is too large for memory, on its way into a side file.

use crate::mailbox::api::{Large, Refusal};
use crate::runtime::Runtime;
use crate::storage::side::{SideError, SideFile, SideWriter};

/// See [`Large`].
pub struct Writing<R: Runtime>(pub(super) SideWriter<R>);

/// What a side file that cannot be written means for its message.
pub(super) fn refusal(error: SideError) -> Refusal {
    match error {
        SideError::Full => Refusal::Full,
        SideError::Poisoned => Refusal::Closed,
    }
}

impl<R: Runtime> Large for Writing<R> {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.0.write(bytes).await.map_err(refusal)
    }

    async fn finish(self) -> Result<SideFile, Refusal> {
        self.0.finish().await.map_err(refusal)
    }
}
