//! A body whose beginning was read ahead: [`PeekedBody`].

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};

/// A body whose beginning may have been read ahead. It passes on the same bytes, trailers and error; the
/// bytes that were read ahead come as one frame.
pub struct PeekedBody<B: Body> {
    /// The data that was read ahead.
    pub(super) read: BytesMut,
    /// What came after it: trailers, an error, or a frame that is too long.
    next: Option<Result<Frame<Bytes>, B::Error>>,
    rest: B,
}

impl<B: Body<Data = Bytes> + Unpin> PeekedBody<B> {
    pub(super) fn new(rest: B) -> Self {
        Self { read: BytesMut::new(), next: None, rest }
    }

    /// Reads the whole body ahead, up to `max_bytes`. An empty frame counts as one byte, so that there
    /// are never more frames than bytes.
    ///
    /// # Errors
    /// 413 Content Too Large for a longer body, and 400 Bad Request for one that is cut off.
    pub(super) async fn peek(&mut self, max_bytes: usize) -> Result<(), StatusCode> {
        if self.rest.size_hint().lower() > max_bytes as u64 {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let mut left = max_bytes;
        while let Some(frame) = std::future::poll_fn(|context| self.poll_rest(context)).await {
            if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref)
                && let Some(less) = left.checked_sub(data.len().max(1))
            {
                self.read.extend_from_slice(data);
                left = less;
                continue;
            }
            let result = match &frame {
                // Trailers are a body's last frame.
                Ok(frame) if frame.is_trailers() => Ok(()),
                Ok(_) => Err(StatusCode::PAYLOAD_TOO_LARGE),
                Err(_) => Err(StatusCode::BAD_REQUEST),
            };
            self.next = Some(frame);
            return result;
        }
        Ok(())
    }

    fn poll_rest(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        // Some bodies panic if they are polled after their end.
        if self.rest.is_end_stream() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.rest).poll_frame(context)
    }
}

/// Only `rest` is ever pinned, and it is polled only if it is `Unpin`.
impl<B: Body> Unpin for PeekedBody<B> {}

impl<B: Body<Data = Bytes> + Unpin> Body for PeekedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.read.split().freeze()))));
        }
        match self.next.take() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => self.poll_rest(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.next.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let next = self.next.as_ref().and_then(|next| next.as_ref().ok()?.data_ref());
        let ahead = self.read.len().saturating_add(next.map_or(0, Bytes::len)) as u64;
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}

impl<B: Body> fmt::Debug for PeekedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekedBody").field("read", &self.read.len()).finish_non_exhaustive()
    }
}
