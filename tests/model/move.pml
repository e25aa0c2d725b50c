/*
 * Moves of regions and sector bitmaps: a copy, the page that names it, and what
 * becomes of the place that was left, with a cut of the power at every moment.
 *
 * Here are the orders of steps; what one step does is in move.h.  A process
 * that looks at each state (watch) says what a cut there could show.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

c_decl {
\#include "move.h"
}

c_track "&m" "sizeof(m)"

#define WHEN(condition) c_expr { (condition) }
#define STEP(action) c_code { action; }

#define IS(name) WHEN(defect == name)

/* All is in place and stable, and then an entry that says so. */
inline checkpoint() {
    d_step { STEP(apply_all(&m.disk); disk_flush(&m.disk)) };
    d_step { STEP(checkpoint_write()) };
    d_step { STEP(disk_flush(&m.disk)) }
}

inline copy() {
    if
    :: WHEN(m.to) -> d_step { STEP(move_copy()) }
    :: WHEN(!m.to)
    fi
}

inline leave() {
    if
    :: IS(COPIED_EARLY) -> copy(); checkpoint()  /* [move-applied] */
    :: WHEN(defect != COPIED_EARLY) -> checkpoint(); copy()
    fi;
    d_step { STEP(copy_flush()) };
    d_step { STEP(move_enter()) };
    d_step { STEP(moved()) }
}

active proctype work() {
    STEP(move_start());
end:
    do
    :: d_step { WHEN(may_change()) -> STEP(change()) };
       d_step { STEP(changed()) }
    :: d_step { WHEN(may_move()) -> STEP(move_begin()) };
       leave()
    :: d_step { WHEN(m.moves && m.place && !m.lock) -> STEP(drop_begin()) };
       leave()
    od
}

active proctype other() {
end:
    d_step { WHEN(may_take()) -> STEP(take()) };
    d_step { STEP(disk_flush(&m.disk)) };
    d_step { WHEN(!m.lock) ->
             STEP(m.lock = true; log_write(&m.disk, OTHER, m.taken)) };
    d_step { STEP(disk_flush(&m.disk); m.lock = false) }
}

/* Pages go in place at any time. */
active proctype put() {
end:
    do
    :: d_step { WHEN(may_apply(&m.disk)) -> STEP(apply(&m.disk)) }
    od
}

active proctype watch() {
end:
    WHEN(m.content && is_wrong()) ->
    STEP(printf("wrong: %s\n", wrong));
    assert(false)
}
