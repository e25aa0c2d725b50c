/*
 * VHDX unit tests: what may be changed, and the numbers of changes
 *
 * The picture in change.c as a table: which step goes from which state to
 * which.  Every step is tried in every state, and where the picture has none
 * it has to end the program.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "block/vhdx/change.h"
#include "block/vhdx/lock.h"
#include "vhdx-test-abort.h"

static const char broken_message[] = "all writes fail";

/* A state, and a node whose it is, as far as change.c looks at them */
static BDRVVHDXState state;
static BlockDriverState *node;

static void state_init(BDRVVHDXState *s)
{
    memset(s, 0, sizeof(*s));
    vhdx_lock_init(s);
    qemu_co_mutex_init(&s->commit_lock);
    vhdx_change_init(s);
}

static void state_free(BDRVVHDXState *s)
{
    vhdx_change_free(s);
    g_assert_null(s->change);
    vhdx_lock_destroy(s);
}

/* -- Steps -- */

/* What a state is; a broken image has been something before. */
typedef enum Known {
    READING,
    METADATA,
    DATA,
    BROKEN_READING,
    BROKEN_METADATA,
    BROKEN_DATA,
    KNOWN_MAX,
    ABORTS = KNOWN_MAX,
} Known;

typedef enum Step {
    OPENED,
    NEW_DATA,
    CLOSED,
    LATCH,
    UNLATCH,
    RESET,
    NOTE,
    STEP_MAX,
} Step;

static const char *const known_names[KNOWN_MAX] = {
    "reading", "metadata", "data", "broken-reading", "broken-metadata",
    "broken-data"
};
static const char *const step_names[STEP_MAX] = {
    "opened", "data", "closed", "latch", "unlatch", "reset", "note"
};

static const Known picture[KNOWN_MAX][STEP_MAX] = {
    [READING] = {
        [OPENED] = METADATA,
        [NEW_DATA] = ABORTS,
        [CLOSED] = ABORTS,
        [LATCH] = BROKEN_READING,
        [UNLATCH] = ABORTS,
        [RESET] = READING,
        [NOTE] = ABORTS,
    },
    [METADATA] = {
        [OPENED] = ABORTS,
        [NEW_DATA] = DATA,
        [CLOSED] = READING,
        [LATCH] = BROKEN_METADATA,
        [UNLATCH] = ABORTS,
        [RESET] = READING,
        [NOTE] = METADATA,
    },
    [DATA] = {
        [OPENED] = ABORTS,
        [NEW_DATA] = ABORTS,
        [CLOSED] = READING,
        [LATCH] = BROKEN_DATA,
        [UNLATCH] = ABORTS,
        [RESET] = READING,
        [NOTE] = DATA,
    },
    [BROKEN_READING] = {
        [OPENED] = ABORTS,
        [NEW_DATA] = ABORTS,
        [CLOSED] = ABORTS,
        [LATCH] = BROKEN_READING,
        [UNLATCH] = READING,
        [RESET] = READING,
        [NOTE] = ABORTS,
    },
    [BROKEN_METADATA] = {
        [OPENED] = ABORTS,
        [NEW_DATA] = ABORTS,
        /* The last write of closing it has failed. */
        [CLOSED] = BROKEN_READING,
        [LATCH] = BROKEN_METADATA,
        [UNLATCH] = METADATA,
        [RESET] = READING,
        [NOTE] = BROKEN_METADATA,
    },
    [BROKEN_DATA] = {
        [OPENED] = ABORTS,
        [NEW_DATA] = ABORTS,
        [CLOSED] = BROKEN_READING,
        [LATCH] = BROKEN_DATA,
        /* A child may have come that knows of no change. */
        [UNLATCH] = METADATA,
        [RESET] = READING,
        [NOTE] = BROKEN_DATA,
    },
};

/* No lock is held. */
static void coroutine_fn GRAPH_RDLOCK take_step(Step step)
{
    qemu_co_mutex_lock(&state.commit_lock);
    switch (step) {
    case OPENED:
        vhdx_change_opened(&state);
        break;
    case NEW_DATA:
        vhdx_change_data(&state);
        break;
    case CLOSED:
        vhdx_change_closed(&state);
        break;
    case LATCH:
        vhdx_change_latch(node, "a test");
        break;
    case UNLATCH:
        vhdx_change_unlatch(&state);
        break;
    case RESET:
        WITH_VHDX_LOCK_GUARD(&state) {
            vhdx_change_reset(&state);
        }
        break;
    case NOTE:
        WITH_VHDX_LOCK_GUARD(&state) {
            vhdx_change_note(&state);
        }
        break;
    default:
        g_assert_not_reached();
    }
    qemu_co_mutex_unlock(&state.commit_lock);
}

/* Get a new image, which is read, to @known. */
static void coroutine_fn GRAPH_RDLOCK get_to(Known known)
{
    Known before = known >= BROKEN_READING ? known - BROKEN_READING : known;

    if (before >= METADATA) {
        take_step(OPENED);
    }
    if (before == DATA) {
        take_step(NEW_DATA);
    }
    if (known >= BROKEN_READING) {
        take_step(LATCH);
    }
}

/* What the functions that are asked tell is what holds for @known. */
static void check_known(Known known)
{
    static const VHDXWriteState states[KNOWN_MAX] = {
        VHDX_READING, VHDX_METADATA, VHDX_DATA, VHDX_BROKEN, VHDX_BROKEN,
        VHDX_BROKEN
    };
    bool log = known != READING && known != BROKEN_READING;

    g_assert_cmpint(vhdx_change_state(&state), ==, states[known]);
    g_assert_cmpint(vhdx_change_is_broken(&state), ==,
                    known >= BROKEN_READING);
    g_assert_cmpint(vhdx_change_log_is_open(&state), ==, log);
}

typedef struct Pair {
    Known from;
    Step step;
    bool done;
} Pair;

static void coroutine_fn pair_entry(void *opaque)
{
    Pair *pair = opaque;
    uint64_t last;

    GRAPH_RDLOCK_GUARD();
    get_to(pair->from);
    check_known(pair->from);
    WITH_VHDX_LOCK_GUARD(&state) {
        last = vhdx_change_last(&state);
    }
    take_step(pair->step);
    check_known(picture[pair->from][pair->step]);
    WITH_VHDX_LOCK_GUARD(&state) {
        g_assert_cmpint(vhdx_change_last(&state), ==,
                        last + (pair->step == NOTE));
    }
    pair->done = true;
}

static void pair_in_child(void *opaque)
{
    Pair *pair = opaque;

    state_init(&state);
    qemu_coroutine_enter(qemu_coroutine_create(pair_entry, pair));
    g_assert_true(pair->done);
    state_free(&state);
}

/* Which assertion ends a step that the picture does not have */
static const char *assertion_of(Step step)
{
    switch (step) {
    case CLOSED:
    case NOTE:
        return "vhdx_change_log_is_open";
    default:
        return "state == from";
    }
}

static void test_pair(gconstpointer opaque)
{
    Pair pair = *(const Pair *)opaque;

    if (picture[pair.from][pair.step] == ABORTS) {
        expect_abort(pair_in_child, &pair, assertion_of(pair.step), "");
    } else {
        expect_return(pair_in_child, &pair);
    }
}

static void add_pairs(void)
{
    static Pair pairs[KNOWN_MAX * STEP_MAX];

    for (int i = 0; i < G_N_ELEMENTS(pairs); i++) {
        g_autofree char *path = NULL;

        pairs[i].from = i / STEP_MAX;
        pairs[i].step = i % STEP_MAX;
        path = g_strdup_printf("/vhdx/change/%s/%s",
                               known_names[pairs[i].from],
                               step_names[pairs[i].step]);
        g_test_add_data_func(path, &pairs[i], test_pair);
    }
}

/* -- All the way -- */

static void run(CoroutineEntry *entry)
{
    bool done = false;

    state_init(&state);
    qemu_coroutine_enter(qemu_coroutine_create(entry, &done));
    g_assert_true(done);
    state_free(&state);
}

static void coroutine_fn rounds_entry(void *opaque)
{
    GRAPH_RDLOCK_GUARD();
    for (int round = 0; round < 3; round++) {
        take_step(OPENED);
        check_known(METADATA);
        if (round) {
            take_step(NEW_DATA);
            check_known(DATA);
        }
        take_step(CLOSED);
        check_known(READING);
    }
    *(bool *)opaque = true;
}

/* The log may be opened again when it has been closed. */
static void test_rounds(void)
{
    run(rounds_entry);
}

/* Said once, when the state changes, with the reason and what to do */
static void coroutine_fn said_entry(void *opaque)
{
    GRAPH_RDLOCK_GUARD();
    for (int i = 0; i < 3; i++) {
        take_step(LATCH);
    }
    *(bool *)opaque = true;
}

static void said_in_child(void *opaque)
{
    run(said_entry);
}

static void test_said(void)
{
    g_autofree char *said = NULL;
    const char *first;

    g_assert_cmpint(child_run(said_in_child, NULL, &said), ==, 0);
    first = strstr(said, broken_message);
    g_assert_nonnull(first);
    g_assert_null(strstr(first + 1, broken_message));
    g_assert_nonnull(strstr(said, "a test"));
    g_assert_nonnull(strstr(said, "image.vhdx"));
}

/* -- Numbers -- */

static uint64_t last_of(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    return vhdx_change_last(s);
}

static bool is_stable(BDRVVHDXState *s, uint64_t change)
{
    VHDX_LOCK_GUARD(s);
    return vhdx_change_is_stable(s, change);
}

static void note(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    vhdx_change_note(s);
}

static bool coroutine_fn take(BDRVVHDXState *s, uint64_t *last)
{
    bool ordered;

    qemu_co_mutex_lock(&s->commit_lock);
    WITH_VHDX_LOCK_GUARD(s) {
        ordered = vhdx_change_take(s, last);
    }
    qemu_co_mutex_unlock(&s->commit_lock);
    return ordered;
}

static void coroutine_fn stable(BDRVVHDXState *s, uint64_t change)
{
    qemu_co_mutex_lock(&s->commit_lock);
    WITH_VHDX_LOCK_GUARD(s) {
        vhdx_change_stable(s, change);
    }
    qemu_co_mutex_unlock(&s->commit_lock);
}

static void coroutine_fn numbers_entry(void *opaque)
{
    uint64_t first, second;

    GRAPH_RDLOCK_GUARD();
    /* There is nothing that would not be stable yet. */
    g_assert_cmpint(last_of(&state), ==, 0);
    g_assert_true(is_stable(&state, 0));

    get_to(METADATA);
    for (int i = 1; i <= 3; i++) {
        note(&state);
        g_assert_cmpint(last_of(&state), ==, i);
        g_assert_false(is_stable(&state, i));
    }
    g_assert_false(take(&state, &first));
    g_assert_cmpint(first, ==, 3);

    /* These come while the commit is under way. */
    note(&state);
    note(&state);
    g_assert_false(is_stable(&state, first));
    stable(&state, first);
    g_assert_true(is_stable(&state, first));
    g_assert_true(is_stable(&state, 1));
    g_assert_false(is_stable(&state, first + 1));
    g_assert_false(take(&state, &second));
    g_assert_cmpint(second, ==, 5);

    /* It fails, and so nothing is stable that was not. */
    g_assert_false(is_stable(&state, second));
    g_assert_false(take(&state, &second));
    g_assert_cmpint(second, ==, 5);
    stable(&state, second);
    g_assert_true(is_stable(&state, second));
    /* again, with nothing new */
    stable(&state, second);
    g_assert_true(is_stable(&state, last_of(&state)));
    *(bool *)opaque = true;
}

static void test_numbers(void)
{
    run(numbers_entry);
}

/* A commit ends which began before another that has ended. */
static void coroutine_fn backwards_entry(void *opaque)
{
    GRAPH_RDLOCK_GUARD();
    get_to(DATA);
    note(&state);
    note(&state);
    stable(&state, 2);
    stable(&state, 1);
}

static void coroutine_fn unknown_entry(void *opaque)
{
    GRAPH_RDLOCK_GUARD();
    get_to(DATA);
    note(&state);
    stable(&state, 2);
}

static void run_in_child(void *opaque)
{
    run(opaque);
}

static void test_bad_numbers(void)
{
    expect_abort(run_in_child, backwards_entry, "vhdx_change_stable",
                 "change >= ");
    expect_abort(run_in_child, unknown_entry, "vhdx_change_stable",
                 "change <= ");
}

static void order(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    vhdx_change_order(s);
    g_assert_true(vhdx_change_is_ordered(s));
}

static void coroutine_fn order_entry(void *opaque)
{
    uint64_t last;

    GRAPH_RDLOCK_GUARD();
    get_to(DATA);
    g_assert_false(vhdx_change_is_ordered(&state));
    /* Twice is once. */
    order(&state);
    order(&state);
    note(&state);
    g_assert_true(vhdx_change_is_ordered(&state));
    g_assert_true(take(&state, &last));
    g_assert_cmpint(last, ==, 1);
    g_assert_false(vhdx_change_is_ordered(&state));
    g_assert_false(take(&state, &last));

    /* What comes while a commit is under way is for the next one. */
    order(&state);
    stable(&state, last);
    g_assert_true(vhdx_change_is_ordered(&state));

    /* A broken image keeps it: it tells what may be lost. */
    take_step(LATCH);
    g_assert_true(vhdx_change_is_ordered(&state));
    take_step(UNLATCH);
    g_assert_true(take(&state, &last));
    *(bool *)opaque = true;
}

static void test_order(void)
{
    run(order_entry);
}

/* -- Beginning anew -- */

static void coroutine_fn reset_entry(void *opaque)
{
    GRAPH_RDLOCK_GUARD();
    get_to(DATA);
    note(&state);
    note(&state);
    order(&state);
    take_step(RESET);
    /* What was not stable is given up: nobody waits for it. */
    check_known(READING);
    g_assert_true(is_stable(&state, 2));
    g_assert_false(vhdx_change_is_ordered(&state));
    /* Numbers are not used twice: some request may know one yet. */
    g_assert_cmpint(last_of(&state), ==, 2);
    get_to(METADATA);
    note(&state);
    g_assert_cmpint(last_of(&state), ==, 3);
    g_assert_false(is_stable(&state, 3));
    *(bool *)opaque = true;
}

static void test_reset(void)
{
    run(reset_entry);
}

/* Move the state to another and back, as vhdx_open_load_anew() does. */
static void coroutine_fn move_from(Known known)
{
    BDRVVHDXState other;
    uint64_t last;

    vhdx_change_free(&state);
    vhdx_change_init(&state);
    get_to(known);
    if (vhdx_change_log_is_open(&state)) {
        note(&state);
        note(&state);
        stable(&state, 1);
    }
    order(&state);
    last = last_of(&state);
    state_init(&other);

    WITH_VHDX_LOCK_GUARD(&state) {
        vhdx_change_move(&other, &state);
    }
    check_known(READING);
    g_assert_false(vhdx_change_is_ordered(&state));
    g_assert_true(is_stable(&state, last));
    g_assert_cmpint(last_of(&state), ==, last);
    g_assert_cmpint(last_of(&other), ==, last);
    g_assert_cmpint(is_stable(&other, last), ==, !last);
    g_assert_true(vhdx_change_is_ordered(&other));

    WITH_VHDX_LOCK_GUARD(&state) {
        vhdx_change_move(&state, &other);
    }
    check_known(known);
    g_assert_cmpint(last_of(&state), ==, last);
    g_assert_cmpint(is_stable(&state, last), ==, !last);
    g_assert_cmpint(is_stable(&state, last / 2), ==, true);
    g_assert_true(vhdx_change_is_ordered(&state));
    g_assert_cmpint(vhdx_change_state(&other), ==, VHDX_READING);
    g_assert_false(vhdx_change_is_ordered(&other));
    if (known >= BROKEN_READING) {
        take_step(UNLATCH);
        check_known(picture[known][UNLATCH]);
    }
    state_free(&other);
}

static void coroutine_fn move_entry(void *opaque)
{
    GRAPH_RDLOCK_GUARD();
    for (Known known = 0; known < KNOWN_MAX; known++) {
        move_from(known);
    }
    *(bool *)opaque = true;
}

static void test_move(void)
{
    run(move_entry);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    node = bdrv_new();
    node->opaque = &state;
    pstrcpy(node->filename, sizeof(node->filename), "image.vhdx");

    add_pairs();
    g_test_add_func("/vhdx/change/rounds", test_rounds);
    g_test_add_func("/vhdx/change/said", test_said);
    g_test_add_func("/vhdx/change/numbers", test_numbers);
    g_test_add_func("/vhdx/change/bad-numbers", test_bad_numbers);
    g_test_add_func("/vhdx/change/order", test_order);
    g_test_add_func("/vhdx/change/reset", test_reset);
    g_test_add_func("/vhdx/change/move", test_move);
    ret = g_test_run();

    node->opaque = NULL;
    bdrv_unref(node);
    return ret;
}
