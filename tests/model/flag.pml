/*
 * Changes to a whole image: it is made fixed, a child gets longer, loses its
 * parent, or an image gets its first one.  Each block is changed, and then what
 * says it of all of them, with a cut of the power at every moment.
 *
 * Here are the orders of steps; what one step does is in flag.h.  A process
 * that looks at each state (watch) says what a cut there could show.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

c_decl {
\#include "flag.h"
}

c_track "&m" "sizeof(m)"

#define WHEN(condition) c_expr { (condition) }
#define STEP(action) c_code { action; }

#define IS(name) WHEN(defect == name)

/* A page for each entry of the log, in any order */
#define WRITE(page) :: d_step { \
        WHEN(m.taken >> (page) & 1) -> STEP(commit_write(page)) }

inline commit() {
    d_step { WHEN(!m.lock) -> STEP(commit_begin()) };
    do
    WRITE(ENTRY)
    WRITE(ENTRY + 1)
    WRITE(BITMAP)
    WRITE(ITEMS)
    :: WHEN(!m.taken) -> break
    od;
    true;  /* no loop ends at a d_step */
    d_step { STEP(commit_end()) }
}

/* Changes wait where a commit has taken the page: the lock stands for that. */
#define CHANGE(action) d_step { WHEN(!m.lock) -> STEP(action) }

inline blocks_change() {
    d_step { STEP(block_fill(0)) };
    CHANGE(block_enter(0));
    d_step { STEP(block_fill(1)) };
    CHANGE(block_enter(1))
}

inline bitmaps_drop() {
    if
    :: IS(BITMAPS_EARLY)  /* [bitmaps-unneeded] */
    :: WHEN(defect != BITMAPS_EARLY) -> commit()
    fi;
    CHANGE(page_set(BITMAP, 0))
}

inline items_change() {
    if
    :: IS(TWO_STEPS) ->  /* [parent-at-once] */
        CHANGE(page_set(ITEMS, m.memory[ITEMS] ^ FLAG));
        commit();
        CHANGE(page_set(ITEMS, items_after()))
    :: WHEN(defect != TWO_STEPS) -> CHANGE(page_set(ITEMS, items_after()))
    fi;
    if
    :: IS(UNCOMMITTED)  /* [change-reported] */
    :: WHEN(defect != UNCOMMITTED) -> commit()
    fi;
    d_step { STEP(m.reported = true) }
}

#define START(n) :: d_step { WHEN(kinds >> n & 1) -> STEP(image_start(n)) }

active proctype work() {
    STEP(options_read());
    if
    START(FIX)
    START(GROW_CHILD)
    START(FLATTEN)
    START(ADOPT)
    fi;
    if
    :: IS(FLAG_FIRST) -> items_change()  /* [entries-first] */
    :: WHEN(defect != FLAG_FIRST)
    fi;
    blocks_change();
    if
    :: WHEN(m.kind == FLATTEN) -> bitmaps_drop()
    :: WHEN(m.kind != FLATTEN)
    fi;
    if
    :: IS(ONE_COMMIT)  /* [entries-first] */
    :: WHEN(defect != ONE_COMMIT) -> commit()
    fi;
    items_change()
}

/* Others flush at any time. */
active proctype others() {
end:
    do
    :: WHEN(m.dirty && !m.lock) -> commit()
    od
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
    WHEN(m.started && is_wrong()) ->
    STEP(printf("wrong: %s\n", wrong));
    assert(false)
}
