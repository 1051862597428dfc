use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A body of which the first part may have been read ahead: it is handed on as it came, frame for
/// frame, and then the rest.
pub struct PeekedBody<B: Body> {
    read_ahead: VecDeque<Result<Frame<Bytes>, B::Error>>,
    rest: B,
}

impl<B: Body<Data = Bytes> + Unpin> PeekedBody<B> {
    pub(super) fn new(rest: B) -> Self {
        Self { read_ahead: VecDeque::new(), rest }
    }

    /// The whole body, if it ends well within `max_bytes`.
    pub(super) async fn peek(&mut self, max_bytes: usize) -> Option<Vec<u8>> {
        let mut document = Vec::new();
        while let Some(frame) = std::future::poll_fn(|context| self.poll_rest(context)).await {
            let data = frame.as_ref().map(|frame| frame.data_ref().cloned());
            let data = data.map_err(|_| ());
            self.read_ahead.push_back(frame);
            if let Some(data) = data.ok()? {
                if document.len() + data.len() > max_bytes {
                    return None;
                }
                document.extend_from_slice(&data);
            }
        }
        Some(document)
    }

    fn poll_rest(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        // A body that has ended is not polled again: not every one can bear it.
        if self.rest.is_end_stream() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.rest).poll_frame(context)
    }
}

/// Nothing in it is pinned but the rest, which is `Unpin` wherever it is polled.
impl<B: Body> Unpin for PeekedBody<B> {}

impl<B: Body<Data = Bytes> + Unpin> Body for PeekedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.read_ahead.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => self.poll_rest(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read_ahead.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.read_ahead.iter().flatten().filter_map(Frame::data_ref);
        let read_ahead = data.map(|data| data.len() as u64).sum::<u64>();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read_ahead));
        }
        hint.set_lower(rest.lower().saturating_add(read_ahead));
        hint
    }
}

impl<B: Body> fmt::Debug for PeekedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekedBody")
            .field("read_ahead", &self.read_ahead.len())
            .finish_non_exhaustive()
    }
}
