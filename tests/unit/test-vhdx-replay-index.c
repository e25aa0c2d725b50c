/*
 * VHDX unit tests: the index of a replay
 *
 * Random ranges go into the index and into a plain array of pages; both must
 * tell the same.  Then it is filled as the worst logs would do.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/replay-index.h"

#define PAGE        4096ULL
#define PAGES       3000

/* So many entries a log can have. */
#define MAX_ENTRY   (1024 * 1024)

/* In the array: nothing, a page of the log with this number + 2, or zeros. */
#define NONE        0
#define ZEROS       1

static VHDXReplayRange page_range(uint64_t page, uint32_t number)
{
    VHDXReplayRange range = {
        .start = page * PAGE,
        .end = (page + 1) * PAGE,
        .log_offset = number * 4096,
        .entry = number * 0x55555 % MAX_ENTRY,
    };

    memset(range.leading, number, sizeof(range.leading));
    memset(range.trailing, number + 1, sizeof(range.trailing));
    return range;
}

static VHDXReplayRange zero_range(uint64_t page, uint64_t count)
{
    return (VHDXReplayRange) {
        .start = page * PAGE,
        .end = (page + count) * PAGE,
        .zero = true,
    };
}

/* The index holds what @model says, and nothing else. */
static void check_index(const VHDXReplayIndex *index, const uint32_t *model)
{
    VHDXReplayRange range;
    uint64_t pos = 0;

    for (uint64_t page = 0; page < PAGES; page++) {
        bool found = vhdx_replay_index_find(index, page * PAGE, &range) &&
                     range.start <= page * PAGE;

        g_assert_cmpint(found, ==, model[page] != NONE);
        if (!found) {
            continue;
        }
        g_assert_cmpint(range.end, >, page * PAGE);
        g_assert_cmpint(range.zero, ==, model[page] == ZEROS);
        if (!range.zero) {
            VHDXReplayRange want = page_range(page, model[page] - 2);

            g_assert_cmpint(range.start, ==, want.start);
            g_assert_cmpint(range.end, ==, want.end);
            g_assert_cmpint(range.log_offset, ==, want.log_offset);
            g_assert_cmpint(range.entry, ==, want.entry);
            g_assert_cmpmem(range.leading, 8, want.leading, 8);
            g_assert_cmpmem(range.trailing, 4, want.trailing, 4);
        }
    }
    /* Ranges are disjoint, in order, and end. */
    while (vhdx_replay_index_find(index, pos, &range)) {
        g_assert_cmpint(range.start, >=, pos);
        g_assert_cmpint(range.start, <, range.end);
        pos = range.end;
    }
    g_assert_cmpint(pos, <=, PAGES * PAGE);
}

/* How many of a hundred ranges are zeros, and how long these are. */
static void check_random(unsigned percent, unsigned longest, uint32_t seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_autofree uint32_t *model = g_new0(uint32_t, PAGES);
    VHDXReplayIndex *index = vhdx_replay_index_new();

    for (uint32_t i = 0; i < 20000; i++) {
        uint64_t page = g_rand_int_range(rand, 0, PAGES);

        if (g_rand_int_range(rand, 0, 100) < percent) {
            uint64_t count = MIN(g_rand_int_range(rand, 1, longest + 1),
                                 PAGES - page);

            g_assert_cmpint(vhdx_replay_index_add(index,
                                                  zero_range(page, count)),
                            ==, 0);
            for (uint64_t j = 0; j < count; j++) {
                model[page + j] = ZEROS;
            }
        } else {
            g_assert_cmpint(vhdx_replay_index_add(index, page_range(page, i)),
                            ==, 0);
            model[page] = i + 2;
        }
        if (i % 2000 == 1999) {
            check_index(index, model);
        }
    }
    vhdx_replay_index_free(index);
}

static void test_random(void)
{
    check_random(0, 1, 1);
    check_random(5, 400, 2);
    check_random(50, 3, 3);
    check_random(100, 20, 4);
}

/*
 * A log of 4 GiB has less than a million pages: they fit, in order, backwards
 * and mixed.
 */
static void test_full_log(void)
{
    const uint64_t count = 1024 * 1024;
    /* Odd, so that it goes through all of them */
    const uint64_t steps[] = { 1, count - 1, 0x9e375 };

    for (size_t i = 0; i < G_N_ELEMENTS(steps); i++) {
        VHDXReplayIndex *index = vhdx_replay_index_new();
        VHDXReplayRange range;

        for (uint64_t j = 0; j < count; j++) {
            uint64_t page = j * steps[i] % count;

            g_assert_cmpint(vhdx_replay_index_add(index, page_range(page * 2,
                                                                    page)),
                            ==, 0);
        }
        for (uint64_t j = 0; j < count; j += 997) {
            g_assert_true(vhdx_replay_index_find(index, j * 2 * PAGE, &range));
            g_assert_cmpint(range.start, ==, j * 2 * PAGE);
            g_assert_cmpint(range.log_offset, ==, (uint32_t)(j * 4096));
            g_assert_cmpint(range.entry, ==, page_range(0, j).entry);
        }
        vhdx_replay_index_free(index);
    }
}

/*
 * Ranges without end are refused.  The second way leaves leaves nearly empty:
 * it is memory that counts, not what is in it.
 */
static void test_too_many(void)
{
    for (int thin = 0; thin < 2; thin++) {
        VHDXReplayIndex *index = vhdx_replay_index_new();
        uint64_t page = 0;
        int ret = 0;

        while (ret == 0 && page < 16 * 1024 * 1024) {
            ret = vhdx_replay_index_add(index, zero_range(page, 1));
            page += 2;
            /* Most of what fills a leaf becomes one range later on. */
            for (uint64_t at = page - 34000;
                 ret == 0 && thin && page % 34000 == 0 && at < page;
                 at += 340) {
                ret = vhdx_replay_index_add(index, zero_range(at + 2, 336));
            }
        }
        g_assert_cmpint(ret, ==, -E2BIG);
        vhdx_replay_index_free(index);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhdx/replay-index/random", test_random);
    g_test_add_func("/vhdx/replay-index/full-log", test_full_log);
    g_test_add_func("/vhdx/replay-index/too-many", test_too_many);
    return g_test_run();
}
