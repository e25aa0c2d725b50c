/*
 * Operations on a differencing image: requests of guests, commits, pages that
 * go in place, and a cut of the power at every moment.
 *
 * Here are the orders of steps; what one step does is in ops*.h.  A process
 * that looks at each state (watch) says what a cut there could show.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

c_decl {
\#include "ops-judge.h"
}

c_track "&m" "sizeof(m)"

/* One step, which nothing comes between */
#define WHEN(condition) c_expr { (condition) }
#define STEP(action) c_code { action; }

#define ME Pguest->id

/* -- Commits -- */

/* What commit_begin() has begun, up to commit_end() */
inline commit_barrier() {
    if
    :: d_step { WHEN(m.barrier) -> STEP(commit_barrier_end()) }
    :: WHEN(!m.barrier)
    fi
}

inline flush() {
    d_step {
        WHEN(!m.commit_lock) ->
        STEP(guest_flush_begin(); commit_begin())
    };
    commit_barrier();
    d_step { STEP(commit_end(); guest_flush_end(); request_end(ME)) }
}

/* The child's content is the parent's: all of its blocks go. */
inline merge() {
    if
    :: d_step {
            /* [empty-stable] */
            WHEN(defect != EMPTY_NOT_COMMITTED) -> STEP(commit_begin())
        };
        commit_barrier();
        d_step { STEP(commit_end()) }
    :: WHEN(defect == EMPTY_NOT_COMMITTED)
    fi;
    d_step { STEP(parent_flush(); make_empty()) };
    if
    :: d_step {
            /* [empty-stable] */
            WHEN(defect != EMPTY_UNCOMMITTED) -> STEP(commit_begin())
        };
        commit_barrier();
        d_step { STEP(commit_end()) }
    :: WHEN(defect == EMPTY_UNCOMMITTED)
    fi;
    d_step { STEP(m.frozen = false; request_end(ME)) }
}

/* -- Requests -- */

/* Alternatives for each place that could be new */
#define EACH_PLACE(STEP_AT) STEP_AT(-1) STEP_AT(0) STEP_AT(1) STEP_AT(2)

#define GO_ON(p) :: d_step { \
        WHEN(request_may_go_on(ME, p)) -> STEP(alloc_get(ME, p)) }

/*
 * A request has begun, and has found its place.  It may find that what it has
 * written is lost, and looks for a place again then.
 */
inline write() {
    do
    :: d_step { WHEN(m.requests[ME].zeroing) -> STEP(alloc_prepared(ME)) }
    :: d_step { WHEN(alloc_is_ready(ME)) -> STEP(data_write(ME)) }
    :: d_step { WHEN(m.requests[ME].writing) -> STEP(request_written(ME)) }
    EACH_PLACE(GO_ON)
    :: d_step { WHEN(request_lacks_space(ME)) -> STEP(commit_begin()) };
        commit_barrier();
        d_step { STEP(commit_end()) }
    :: d_step { WHEN(request_is_over(ME)) -> STEP(request_end(ME)) }
    :: WHEN(!m.requests[ME].active) -> break
    od
}

#define BEGIN_AT(kind, block, mask, p) :: d_step { \
        WHEN(request_may_begin(ME, kind, block, mask, p)) -> \
        STEP(request_begin(ME, kind, block, mask, p)) }

#define BEGIN(kind, block, mask) \
    BEGIN_AT(kind, block, mask, -1) \
    BEGIN_AT(kind, block, mask, 0) \
    BEGIN_AT(kind, block, mask, 1) \
    BEGIN_AT(kind, block, mask, 2)

#define ZERO_BLOCK(block) :: d_step { \
        WHEN(request_may_begin(ME, ZERO_WHOLE, block, WHOLE, -1)) -> \
        STEP(request_begin(ME, ZERO_WHOLE, block, WHOLE, -1); \
             zero_whole(ME); request_end(ME)) }

#define BEGIN_OTHER(kind) :: d_step { \
        WHEN((kinds >> kind & 1) && guest_is_next(ME)) -> \
        STEP(request_begin_other(ME, kind)) }

/* All that is under way ends first, and nothing else begins meanwhile. */
#define BEGIN_MERGE :: d_step { \
        WHEN((kinds >> MAKE_EMPTY & 1) && guest_is_next(ME) && \
             others_are_idle(ME) && !m.commit_lock) -> \
        STEP(request_begin_other(ME, MAKE_EMPTY); m.frozen = true; \
             merge_copy()) }

proctype guest(byte id) {
end:
    do
    :: if
       BEGIN(WRITE, 0, 1)
       BEGIN(WRITE, 0, 2)
       BEGIN(WRITE, 0, WHOLE)
       BEGIN(WRITE, 1, 1)
       BEGIN(WRITE, 1, WHOLE)
       BEGIN(COPY_ON_READ, 0, 1)
       BEGIN(COPY_ON_READ, 0, 2)
       BEGIN(COPY_ON_READ, 1, 1)
       BEGIN(ZERO_PART, 0, 1)
       BEGIN(ZERO_PART, 0, 2)
       BEGIN(ZERO_PART, 1, 1)
       BEGIN(DISCARD_PART, 0, 1)
       BEGIN(DISCARD_PART, 0, 2)
       BEGIN(DISCARD_PART, 1, 1)
       fi -> write()
    ZERO_BLOCK(0)
    ZERO_BLOCK(1)
    BEGIN_OTHER(FLUSH) -> flush()
    BEGIN_MERGE -> merge()
    od
}

/* -- Pages go in place at any time. -- */

proctype apply() {
end:
    do
    :: d_step { WHEN(may_apply()) -> STEP(apply()) }
    od
}

/* -- What is judged -- */

proctype watch() {
end:
    WHEN(is_wrong()) -> STEP(printf("wrong: %s\n", wrong)); assert(false)
}

#define START(n) :: d_step { WHEN(starts >> n & 1) -> STEP(image_start(n)) }

init {
    STEP(options_read());
    if
    START(NO_BITMAP)
    START(STALE_BITS)
    START(PARTLY_HERE)
    START(READS_ZEROS)
    fi;
    atomic {
        run watch();
        run apply();
        run guest(0);
        run guest(1);
        run guest(2)
    }
}
