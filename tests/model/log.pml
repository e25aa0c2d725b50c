/*
 * The log of one image without a parent: requests of guests, commits,
 * checkpoints, pages that go in place, growth and cuts of the file, the first
 * modification and the closing, and a cut of the power at every moment.
 *
 * Here are the orders of steps; what one step does is in log*.h.  A process
 * that looks at each state (watch) says what a cut there could show.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

c_decl {
\#include "log-judge.h"
}

c_track "&m" "sizeof(m)"

/* One step, which nothing comes between */
#define WHEN(condition) c_expr { (condition) }
#define STEP(action) c_code { action; }

#define ME Pguest->id

/* -- Commits -- */

/* After checkpoint_begin(), up to checkpoint_end() */
inline checkpoint() {
    d_step { STEP(checkpoint_write()) }
}

/* What commit_begin() has begun, up to commit_end() */
inline commit() {
    do
    :: d_step { WHEN(m.settling) -> STEP(commit_settled()) }
    :: d_step {
            WHEN(commit_needs_checkpoint()) ->
            STEP(commit_barrier_end(); checkpoint_begin())
        };
        checkpoint();
        d_step { STEP(checkpoint_end()) }
    :: d_step {
            WHEN(!m.settling && !commit_needs_checkpoint() &&
                 commit_may_fail()) ->
            STEP(commit_fail())
        };
        break
    :: d_step {
            WHEN(!m.settling && !commit_needs_checkpoint()) ->
            STEP(commit_write())
        };
        if
        :: d_step { WHEN(commit_has_pages()) -> STEP(commit_flushed()) }
        :: d_step { WHEN(!commit_has_pages()) -> STEP(commit_flushed()) };
            break
        :: d_step { WHEN(flush_may_fail()) -> STEP(commit_flush_fail()) };
            break
        fi
    :: d_step {
            WHEN((m.barrier || m.settling) && flush_may_fail()) ->
            STEP(commit_flush_fail())
        };
        break
    od
}

/* -- Requests -- */

/* A write has begun. */
inline write() {
    do
    :: d_step { WHEN(m.requests[ME].zeroing) -> STEP(place_zeroed(ME)) }
    :: d_step { WHEN(alloc_is_ready(ME)) -> STEP(data_begin(ME)) }
    :: d_step { WHEN(may_early(ME)) -> STEP(early_begin(ME)) }
    :: d_step { WHEN(m.requests[ME].writing) -> STEP(write_end(ME, false)) };
        break
    :: d_step {
            WHEN(m.requests[ME].writing && m.fails) ->
            STEP(write_end(ME, true))
        };
        break
    od
}

#define WRITE_AT(block, mask, place) :: d_step { \
        WHEN(may_write(ME, block, mask, place)) -> \
        STEP(write_begin(ME, block, mask, place)) }

/* In the place that the block has, or a new one */
#define BEGIN_WRITE(block, mask) \
    WRITE_AT(block, mask, -1) \
    WRITE_AT(block, mask, 0) \
    WRITE_AT(block, mask, 1) \
    WRITE_AT(block, mask, 2) \
    WRITE_AT(block, mask, 3)

#define DISCARD_BLOCK(block) :: d_step { \
        WHEN(is_kind(DISCARD) && guest_is_next(ME) && block < blocks) -> \
        STEP(discard(ME, block)) }

#define MOVE_TO(block, place) :: d_step { \
        WHEN(may_move(ME, block, place)) -> STEP(move(block, place)) }

#define MOVE_BLOCK(block) \
    MOVE_TO(block, 0) \
    MOVE_TO(block, 1) \
    MOVE_TO(block, 2) \
    MOVE_TO(block, 3)

proctype guest(byte id) {
end:
    do
    :: if
       BEGIN_WRITE(0, 1)
       BEGIN_WRITE(0, 2)
       BEGIN_WRITE(1, 1)
       BEGIN_WRITE(1, 2)
       BEGIN_WRITE(2, 1)
       fi -> write()
    DISCARD_BLOCK(0)
    DISCARD_BLOCK(1)
    DISCARD_BLOCK(2)
    MOVE_BLOCK(0)
    MOVE_BLOCK(1)
    :: d_step { WHEN(may_flush(ME, true)) -> STEP(flush_begin(ME)) };
        commit()
    :: d_step { WHEN(may_flush(ME, false)) -> STEP(flush_nothing()) }
    od
}

/* -- What the image does by itself -- */

/* The first modification: see vhdx_log_open(). */
inline open_log() {
    d_step { WHEN(may_open()) -> STEP(open_begin()) };
    if
    :: d_step { WHEN(m.replaying) -> STEP(replay_put()) };
        if
        :: d_step {
                WHEN(defect != LOG_OVERWRITTEN) ->
                STEP(file_flush_end(); header_put(0, 0))
            };
            d_step { STEP(header_end(); header_put(0, 1)) };
            d_step { STEP(header_end(); replay_cut(); ring_begin()) }
        :: d_step { WHEN(defect == LOG_OVERWRITTEN) -> STEP(ring_begin()) }
        fi
    :: d_step { WHEN(!m.replaying) -> STEP(header_end(); ring_begin()) }
    fi;
    d_step { STEP(file_flush_end(); header_put(m.ring.log, 0)) };
    d_step { STEP(header_end(); header_put(m.ring.log, 1)) };
    d_step { STEP(open_end()) }
}

inline close_log() {
    d_step { WHEN(may_close()) -> STEP(close_begin()) };
    commit();
    if
    :: d_step { STEP(close_apply()) }
    fi;
    d_step { STEP(file_flush_end(); header_put(0, 0)) };
    d_step { STEP(header_end(); header_put(0, 1)) };
    d_step { STEP(close_end()) }
}

inline cut_tail() {
    d_step { WHEN(may_cut()) -> STEP(tail_begin()) };
    d_step { STEP(tail_announce()) };
    if
    :: WHEN(defect != CUT_UNANNOUNCED) -> checkpoint()
    :: WHEN(defect == CUT_UNANNOUNCED)
    fi;
    d_step { STEP(tail_cut()) };
    d_step { STEP(tail_end()) }
}

inline resume() {
    d_step { WHEN(may_resume()) -> STEP(resume_begin()) };
    d_step { STEP(resume_end()) }
}

proctype keeper() {
end:
    do
    :: resume()
    :: open_log()
    :: close_log()
    :: cut_tail()
    :: d_step { WHEN(may_grow()) -> STEP(file_grow()) }
    :: d_step { WHEN(may_punch(0)) -> STEP(place_punch(0)) }
    od
}

/* Pages go in place, and entries beside their data end, beside all that. */
proctype apply() {
end:
    do
    :: d_step { WHEN(m.early_write) -> STEP(early_end(false)) }
    :: d_step { WHEN(m.early_write && m.fails) -> STEP(early_end(true)) }
    :: d_step { WHEN(ring_may_apply()) -> STEP(ring_apply()) }
    od
}

/* -- What is judged -- */

proctype watch() {
end:
    WHEN(is_wrong()) -> STEP(printf("wrong: %s\n", wrong)); assert(false)
}

#define START(n) :: d_step { WHEN(starts >> n & 1) -> STEP(model_start(n)) }

init {
    STEP(options_read());
    if
    START(EMPTY)
    START(HALF_FULL)
    START(CLOSED)
    START(CRASHED)
    fi;
    atomic {
        run watch();
        run keeper();
        run apply();
        run guest(0);
        if
        :: WHEN(guests > 1) -> run guest(1)
        :: WHEN(guests < 2)
        fi;
        if
        :: WHEN(guests > 2) -> run guest(2)
        :: WHEN(guests < 3)
        fi
    }
}
