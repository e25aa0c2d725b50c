/*
 * Dirty bitmaps: they are stored when the log is about to be closed, a change
 * follows, one is removed, with a cut of the power at every moment.
 *
 * Here are the orders of steps; what one step does is in dirty.h.  A process
 * that looks at each state (watch) says what a cut there could show.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

c_decl {
\#include "dirty.h"
}

c_track "&m" "sizeof(m)"

#define WHEN(condition) c_expr { (condition) }
#define STEP(action) c_code { action; }

#define IS(name) WHEN(defect == name)

inline first_change() {
    d_step { STEP(begin()) };
    d_step { STEP(begun()) }
}

/* What the head is to be is in next_head. */
inline head_commit() {
    d_step { STEP(others_write()) };
    d_step { STEP(others_flush()) };
    d_step { STEP(head_write()) }
}

inline take_back() {
    d_step { STEP(head_take_back()) };
    head_commit();
    d_step { STEP(head_stable()) }
}

/* A head that may be stable is taken back before anything else. */
#define SETTLE(forgotten) \
    if \
    :: WHEN(m.unsure && defect != forgotten) -> take_back() \
    :: WHEN(!m.unsure || defect == forgotten) \
    fi

inline change() {
    first_change();
    SETTLE(UNSURE_FORGOTTEN);  /* [dirty-taken-back] */
    if
    :: d_step { STEP(change_block()) }
    :: d_step { STEP(change_entry()) }
    fi
}

/* The log is closed next; where this fails a change may follow. */
inline close_log() {
    if
    :: d_step { STEP(apply_all(&m.disk); disk_flush(&m.disk)) };
       d_step { STEP(log_write(&m.disk, TAIL, 0)) };
       d_step { STEP(disk_flush(&m.disk); m.open = false) }
    :: IS(NOT_TAKEN_BACK)  /* [dirty-taken-back] */
    :: WHEN(defect != NOT_TAKEN_BACK) -> take_back()
    fi
}

inline store() {
    first_change();
    SETTLE(UNSURE_OVERWRITTEN);  /* [dirty-names] */
    d_step { STEP(directory_write(); head_make(true)) };
    head_commit();
    if
    :: d_step { STEP(head_stable()) };
       close_log()
    :: d_step { WHEN(m.fails) -> STEP(head_fails()) }
    fi
}

inline remove() {
    first_change();
    SETTLE(UNSURE_OVERWRITTEN);
    d_step { STEP(m.names++; directory_write(); head_make(false)) };
    if
    :: IS(REMOVED_UNSTABLE)  /* [dirty-names] */
    :: WHEN(defect != REMOVED_UNSTABLE) ->
        head_commit();
        d_step { STEP(head_stable()) }
    fi;
    d_step { STEP(removed()) }
}

active proctype work() {
    STEP(image_start());
end:
    do
    :: WHEN(m.changes) -> change()
    :: d_step { WHEN(m.stores) -> STEP(m.stores--) }; store()
    :: d_step { WHEN(m.removals) -> STEP(m.removals--) }; remove()
    od
}

/* The guest flushes, and pages go in place, at any time. */
active proctype others() {
end:
    do
    :: d_step { WHEN(m.entry_dirty) -> STEP(entry_write()) }
    :: d_step { WHEN(m.open && m.disk.count) -> STEP(disk_flush(&m.disk)) }
    :: d_step { WHEN(may_apply(&m.disk)) -> STEP(apply(&m.disk)) }
    od
}

active proctype watch() {
end:
    WHEN(m.started && is_wrong()) ->
    STEP(printf("wrong: %s\n", wrong));
    assert(false)
}
