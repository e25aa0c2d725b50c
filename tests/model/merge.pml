/*
 * Merges in a chain of three images, with a sibling and a clone beside it: which
 * DataWriteGuid and which linkage is written when, and a cut of the power at
 * every moment.
 *
 * Here are the orders of steps; what one step does is in merge.h.  A process
 * that looks at each state (watch) says what a cut there could show.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

c_decl {
\#include "merge-judge.h"
}

c_track "&m" "sizeof(m)"

#define WHEN(condition) c_expr { (condition) }
#define STEP(action) c_code { action; }

#define IS(name) WHEN(defect == name)

/* -- The rules for GUIDs: file takes a new one, child is its child. -- */

/* R1, first half: the child learns of what is to come. */
inline tell() {
    d_step {
        WHEN(!m.lock[now.child]) ->
        STEP(m.lock[now.child] = true; child_tell(now.child, now.next))
    };
    d_step {
        STEP(told_flush(now.child); m.lock[now.child] = false)
    }
}

/* R1, second half */
inline tidy() {
    d_step {
        WHEN(!m.lock[now.child]) ->
        STEP(m.lock[now.child] = true; child_tidy(now.child, now.next))
    };
    d_step { STEP(file_flush(now.child); m.lock[now.child] = false) }
}

inline header() {
    d_step { STEP(part_write(&m.file[now.file].guid, now.next)) };
    d_step { STEP(header_flush(now.file)) }
}

/* With a child: it can be tidied later as well (R3), if it is read-only. */
inline tell_and_take() {
    if
    /* [told-first] */
    :: IS(HEADER_BEFORE_TELLING) -> header(); tell(); tidy()
    :: IS(TIDIED_BEFORE_HEADER) -> tell(); tidy(); header()
    :: WHEN(defect != HEADER_BEFORE_TELLING &&
            defect != TIDIED_BEFORE_HEADER) ->
        tell();
        header();
        if
        :: tidy()
        :: true
        fi
    fi
}

/* R1 */
inline take_guid() {
    d_step {
        WHEN(!m.lock[now.file]) ->
        STEP(m.lock[now.file] = true; now.next = guid_new());
        STEP(now.child = child_in_use(now.file))
    };
    if
    :: WHEN(now.child != FILES) -> tell_and_take()
    :: WHEN(now.child == FILES) -> header()
    fi;
    d_step { STEP(m.told[now.file] = now.child) };
    if
    :: d_step {
            WHEN(child_told_too(now.file) != FILES) ->
            STEP(now.child = child_told_too(now.file))
        };
        tidy()
    :: WHEN(child_told_too(now.file) == FILES)
    fi;
    d_step { STEP(m.lock[now.file] = false) }
}

/*
 * R1 for a merge: each image between the active one and @to reads differently
 * by itself afterwards, so all of them take a new one, from the top down.
 */
inline take_guids() {
    d_step { STEP(now.file = guid_first(now.to)) };
    do
    :: take_guid();
        if
        :: WHEN(guid_is_last(now.file, now.to)) -> break
        :: d_step {
                WHEN(!guid_is_last(now.file, now.to)) ->
                STEP(now.file = guid_next(now.file))
            }
        fi
    od
}

/* R4: the guest writes to an image. */
inline write_begin() {
    d_step { STEP(now.file = m.active) };
    if
    :: WHEN(guid_is_good(m.active))
    :: WHEN(!guid_is_good(m.active)) -> take_guid()
    fi
}

/* -- Merges -- */

inline copy() {
    d_step { STEP(now.sector = 0) };
    do
    :: d_step {
            WHEN(now.sector < SECTORS) ->
            STEP(merge_sector(now.from, now.to, now.sector++))
        }
    :: WHEN(now.sector == SECTORS) -> break
    od
}

inline copy_and_take_guids() {
    if
    :: IS(DATA_BEFORE_HEADER) -> copy(); take_guids()  /* [told-first] */
    :: WHEN(defect != DATA_BEFORE_HEADER) -> take_guids(); copy()
    fi
}

inline drop_all() {
    d_step { STEP(make_empty(now.from)) };
    d_step { STEP(file_flush(now.from)) }
}

/*
 * The image over the one that is merged gets another parent.  Locks are taken
 * as by whoever reads a parent's GUID: the parent's, and then the child's.
 */
inline change_backing_file() {
    d_step {
        WHEN(!m.lock[now.to] && !m.lock[child_in_use(now.from)]) ->
        STEP(now.child = child_in_use(now.from));
        STEP(m.lock[now.to] = m.lock[now.child] = true);
        STEP(locator_write(now.child, guid_now(now.to), NIL, now.to))
    };
    d_step {
        STEP(file_flush(now.child));
        STEP(m.lock[now.to] = m.lock[now.child] = false)
    }
}

inline write_on() {
    write_begin();
    d_step { STEP(guest_write(2, WRITTEN)) };
    d_step { STEP(guest_write(0, OVERWRITTEN)) };
    d_step { STEP(guest_flush()) }
}

/* What may come behind the copying; what is here is in the parent. */
inline merge_end() {
    if
    :: WHEN(now.from == m.active) ->
        if
        :: IS(EMPTY_BEFORE_FLUSH) -> drop_all()  /* [empty-stable] */
        :: WHEN(defect != EMPTY_BEFORE_FLUSH) ->
            d_step { STEP(file_flush(now.to)) };
            if
            :: drop_all()
            :: d_step { STEP(pivot(now.to)) }; write_on()
            :: true
            fi
        fi
    :: WHEN(now.from != m.active) ->
        if
        :: IS(LINKED_BEFORE_FLUSH)  /* [link-flushed] */
        :: WHEN(defect != LINKED_BEFORE_FLUSH) ->
            d_step { STEP(file_flush(now.to)) }
        fi;
        change_backing_file()
    fi
}

#define MERGE(a, b) :: d_step { \
        WHEN(is_in_chain(a) && is_in_chain(b)) -> \
        STEP(now.from = a; now.to = b) \
    }

/* -- A snapshot: an overlay that was made some time before -- */

inline snapshot() {
    d_step { STEP(now.file = m.active) };
    take_guid();
    d_step { STEP(guest_write(2, WRITTEN)) };
    if
    :: IS(SNAPSHOT_UNFLUSHED)  /* [link-flushed] */
    :: WHEN(defect != SNAPSHOT_UNFLUSHED) ->
        d_step { STEP(file_flush(m.active)) }
    fi;
    if
    :: IS(NOT_RELINKED)  /* [overlay-linked] */
    :: WHEN(defect != NOT_RELINKED) ->
        d_step { STEP(child_tidy(OVERLAY, guid_now(TOP))) };
        d_step { STEP(file_flush(OVERLAY)) }
    fi;
    d_step { STEP(m.active = OVERLAY) };
    d_step { STEP(guest_write(0, OVERWRITTEN)) };
    d_step { STEP(guest_flush()) }
}

byte file, child, next, from, to, sector, merges;

inline work() {
end:
    do
    :: d_step { WHEN(now.merges < most_merges) -> STEP(now.merges++) };
       if
       MERGE(TOP, BASE)
       MERGE(TOP, MID)
       MERGE(MID, BASE)
       fi;
       copy_and_take_guids();
       merge_end()
    :: d_step {
            WHEN(m.active < TOP && now.merges < most_merges) ->
            STEP(now.merges++)
        };
        write_on()
    :: WHEN(m.active == TOP && now.merges == 0) -> snapshot()
    od
}

active proctype job() {
    STEP(chain_start());
end_cut:
    do
    :: { work() } unless { d_step { WHEN(m.is_cut) -> STEP(m.is_cut = false) } }
    od
}

/* R3: a child with two linkages is tidied with its next change, or at close. */
#define TIDY(n) :: d_step { WHEN(child_may_tidy(n)) -> STEP(tidy_begin(n)) }

active proctype tidy_later() {
end:
    do
    TIDY(MID)
    TIDY(TOP)
    :: d_step { WHEN(m.tidying) -> STEP(tidy_end()) }
    od
}

/*
 * The power is cut, and what is left is used again: each that there is.  What
 * every cut leaves is judged below; this is for what is made of it.
 */
active proctype power() {
    byte choice;

end:
    do
    :: d_step { WHEN(cut_is_left(Ppower->choice + 1)) -> choice++ }
    :: d_step { WHEN(cut_is_left(Ppower->choice)) ->
                STEP(cut(Ppower->choice)); choice = 0 }
    od
}

active proctype watch() {
end:
    WHEN(m.next_guid && is_wrong()) ->
    STEP(printf("wrong: %s\n", wrong));
    assert(false)
}
