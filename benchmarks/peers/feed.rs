// Runs detr-mmap's capture loop with a file of JPEGs (u32 length + bytes, repeated) instead of a V4L2 device, at a fixed rate.
use bridge::{BridgeSemaphore, FrameWriter, SemaphoreType, SentryControl};
use capture::decoder::{FrameDecoder, MjpegDecoder};
use capture::pacing::CapturePacing;
use std::time::{Duration, Instant};
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let (file, width, height, fps): (_, u32, u32, f64) = (&args[1], args[2].parse()?, args[3].parse()?, args[4].parse()?);
    let data = std::fs::read(file)?;
    let mut jpegs = vec![];
    let mut at = 0;
    while at + 4 <= data.len() {
        let n = u32::from_le_bytes(data[at..at + 4].try_into()?) as usize;
        jpegs.push(&data[at + 4..at + 4 + n]);
        at += 4 + n;
    }
    let mut decoder = MjpegDecoder::new()?;
    // Not capture's sink: without a gateway its queue fills up, and the sink waits.
    let mut writer = FrameWriter::build()?;
    let inference = BridgeSemaphore::ensure(SemaphoreType::FrameCaptureToInference)?;
    let sentry = SentryControl::build()?;
    let wake = BridgeSemaphore::ensure(SemaphoreType::ModeChangeControllerToCapture)?;
    let mut pacing = CapturePacing::new(fps, 3.0);
    let began = Instant::now();
    let mut frames = 0u64;
    loop {
        let start = Instant::now();
        let mode = sentry.get_mode();
        pacing.update(mode);
        let number = (began.elapsed().as_secs_f64() * fps) as usize % jpegs.len();
        let rgb = decoder.decode(jpegs[number], width, height)?;
        writer.write_frame(0, rgb, frames, width, height, None)?;
        inference.post().ok();
        frames += 1;
        if frames % 30 == 0 { println!("{frames}"); }
        let left = pacing.frame_duration().saturating_sub(start.elapsed());
        if left > Duration::ZERO { if let Ok(true) = wake.wait_timeout_duration(left) { let _ = wake.drain(); } }
    }
}
