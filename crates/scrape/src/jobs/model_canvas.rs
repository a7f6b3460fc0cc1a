//! Canvases of the model: random compositions of tasks, each task with its course.

/// Course of one task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TaskCourse {
    Succeeds,
    /// Fails at first, is tried again after a countdown, and succeeds.
    Retried,
    /// Is delivered and run twice, and counted once.
    RunTwice,
    Fails,
    Expires,
    /// Raises `Ignore`: leaves neither a result nor an event.
    Ignored,
    /// Raises `Reject`.
    Rejected,
    /// Loses its worker while it runs.
    Lost,
    /// Loses its worker between the storing of its result and its counting in the chord.
    LostUncounted,
    /// Stays in the state RETRY after a cold shutdown of its worker.
    StuckInRetry,
    /// Loses its message, which vanishes from the queue.
    Purged,
}

#[derive(Clone, Debug)]
pub(super) enum Canvas {
    Task(ModelTask),
    Chain(Vec<ModelTask>),
    Group(Vec<ModelTask>),
    Chord { header: Vec<Canvas>, body: Box<Canvas> },
}

#[derive(Clone, Debug)]
pub(super) struct ModelTask {
    pub fate: TaskCourse,
    pub starts: Vec<Canvas>,
}

pub(super) fn callback_is_task(body: &Canvas) -> bool {
    matches!(body, Canvas::Task(_))
}

pub(super) fn fate(random: &mut fastrand::Rng, trouble: u8) -> TaskCourse {
    if random.u8(..100) >= trouble {
        return [
            TaskCourse::Succeeds,
            TaskCourse::Succeeds,
            TaskCourse::Succeeds,
            TaskCourse::Retried,
            TaskCourse::RunTwice,
        ][random.usize(..5)];
    }
    [
        TaskCourse::Fails,
        TaskCourse::Fails,
        TaskCourse::Expires,
        TaskCourse::Ignored,
        TaskCourse::Rejected,
        TaskCourse::Lost,
        TaskCourse::LostUncounted,
        TaskCourse::StuckInRetry,
        TaskCourse::Purged,
    ][random.usize(..9)]
}

pub(super) fn work(random: &mut fastrand::Rng, trouble: u8, depth: u8) -> ModelTask {
    let starts = if depth > 0 && random.u8(..8) == 0 {
        vec![canvas(random, trouble, depth - 1)]
    } else {
        vec![]
    };
    ModelTask {
        fate: fate(random, trouble),
        starts,
    }
}

pub(super) fn canvas(random: &mut fastrand::Rng, trouble: u8, depth: u8) -> Canvas {
    let count = random.usize(1..5);
    let works = |random: &mut fastrand::Rng| (0..count).map(|_| work(random, trouble, depth)).collect::<Vec<_>>();
    match random.u8(..7) {
        0 => Canvas::Task(work(random, trouble, depth)),
        1 => Canvas::Chain(works(random)),
        2 | 3 => Canvas::Group(works(random)),
        _ => {
            let header = (0..count).map(|_| match random.u8(..8) {
                0 if depth > 0 => Canvas::Chain((0..2).map(|_| work(random, trouble, depth - 1)).collect()),
                1 if depth > 0 => Canvas::Chord {
                    header: vec![
                        Canvas::Task(work(random, trouble, 0)),
                        Canvas::Task(work(random, trouble, 0)),
                    ],
                    body: Box::new(Canvas::Task(work(random, trouble, 0))),
                },
                _ => Canvas::Task(work(random, trouble, depth.saturating_sub(1))),
            });
            let header = header.collect();
            let body = match random.u8(..6) {
                0 => Canvas::Group((0..2).map(|_| work(random, trouble, 0)).collect()),
                _ => Canvas::Task(work(random, trouble, 0)),
            };
            Canvas::Chord {
                header,
                body: Box::new(body),
            }
        }
    }
}

pub(super) fn planned(canvas: &Canvas) -> u64 {
    let of_works = |works: &[ModelTask]| {
        works
            .iter()
            .map(|work| 1 + work.starts.iter().map(planned).sum::<u64>())
            .sum()
    };
    match canvas {
        Canvas::Task(work) => of_works(std::slice::from_ref(work)),
        Canvas::Chain(works) | Canvas::Group(works) => of_works(works),
        Canvas::Chord { header, body } => header.iter().map(planned).sum::<u64>() + planned(body),
    }
}
