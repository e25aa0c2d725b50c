/*
 * VHDX unit tests: the map of used MiBs
 *
 * The model has a bool for each MiB and looks at one after the other.  Random
 * steps are taken with both; what only one place in the driver does, or what
 * happens at the edges of the map, is done by hand.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-map.h"
#include "block/vhdx/space-int.h"
#include "vhdx-test-util.h"

/* What of an open image the map looks at, with a file of @size bytes */
static BDRVVHDXState *state_new(uint64_t size, uint64_t block_mibs)
{
    BDRVVHDXState *s = g_new0(BDRVVHDXState, 1);

    vhdx_lock_init(s);
    vhdx_file_init(s, size);
    vhdx_space_init(s, size);
    s->geo.block_size = block_mibs * MiB;
    vhdx_lock(s);
    return s;
}

static void state_free(BDRVVHDXState *s)
{
    vhdx_unlock(s);
    vhdx_space_free(s);
    vhdx_file_free(s);
    vhdx_lock_destroy(s);
    g_free(s);
}

static void map_free(BDRVVHDXState *s, uint64_t mib, uint64_t mibs)
{
    vhdx_space_map_free(s, mib * MiB, mibs * MiB);
}

/* Take @mibs from MiB @from on, below @limit: where is it, or 0 */
static uint64_t map_take(BDRVVHDXState *s, uint64_t mibs, uint64_t from,
                         uint64_t limit)
{
    uint64_t offset = vhdx_space_map_take(s, mibs * MiB, from, limit);

    g_assert_cmpint(offset % MiB, ==, 0);
    return offset / MiB;
}

static void map_punch(BDRVVHDXState *s, uint64_t mib, uint64_t mibs)
{
    vhdx_space_map_punch(s->space, mib * MiB, mibs * MiB);
}

static bool is_used(BDRVVHDXState *s, uint64_t mib)
{
    return test_bit(mib, s->space->used);
}

/* Whether the host is to have it back */
static bool is_punched(BDRVVHDXState *s, uint64_t mib)
{
    return mib < s->space->punch_bits && test_bit(mib, s->space->punch);
}

/* The map has @mibs from @first on as @used, and what is around not. */
static void check_run(BDRVVHDXState *s, uint64_t first, uint64_t mibs,
                      bool used)
{
    for (uint64_t i = first; i < first + mibs; i++) {
        g_assert_cmpint(is_used(s, i), ==, used);
    }
    g_assert_cmpint(is_used(s, first - 1), ==, !used);
    g_assert_cmpint(is_used(s, first + mibs), ==, !used);
}

/* -- By hand -- */

/* Without a map nothing is known to be free. */
static void test_none(void)
{
    BDRVVHDXState *s = state_new(20 * MiB, 1);
    VHDXSpace *sp = s->space;

    g_assert_cmpint(map_take(s, 1, 0, 20), ==, 0);
    g_assert_cmpint(map_take(s, 1, 0, UINT64_MAX), ==, 0);
    vhdx_space_map_reach(sp, 30 * MiB);
    g_assert_cmpint(sp->end, ==, 30 * MiB);
    g_assert_null(sp->used);
    vhdx_space_map_unpunch(sp, 0, UINT64_MAX);
    g_assert_null(sp->punch);

    /* The first that gets free makes one, and the rest is used in it. */
    map_free(s, 7, 2);
    g_assert_nonnull(sp->used);
    check_run(s, 7, 2, false);
    for (uint64_t i = 0; i < 30; i++) {
        g_assert_cmpint(is_used(s, i), ==, i != 7 && i != 8);
    }
    state_free(s);
}

/* No map is made of a file that is too long for one. */
static void test_too_long(void)
{
    BDRVVHDXState *s = state_new(VHDX_MAX_MAP_BYTES + MiB, 1);

    map_free(s, 7, 2);
    g_assert_null(s->space->used);
    g_assert_cmpint(map_take(s, 1, 0, 100), ==, 0);
    state_free(s);

    /* This one is just short enough. */
    s = state_new(VHDX_MAX_MAP_BYTES, 1);
    map_free(s, VHDX_MAX_MAP_BYTES / MiB - 2, 2);
    g_assert_nonnull(s->space->used);
    g_assert_cmpint(map_take(s, 2, 0, VHDX_MAX_MAP_BYTES / MiB), ==,
                    VHDX_MAX_MAP_BYTES / MiB - 2);
    g_assert_cmpint(map_take(s, 1, 0, VHDX_MAX_MAP_BYTES / MiB), ==, 0);
    state_free(s);
}

/* The file may end within a MiB, which is used then. */
static void test_end(void)
{
    BDRVVHDXState *s = state_new(9 * MiB + 512, 1);

    g_assert_cmpint(s->space->end, ==, 10 * MiB);
    map_free(s, 4, 2);
    g_assert_cmpint(vhdx_space_map_end(s->space), ==, 10 * MiB);
    map_free(s, 9, 1);
    g_assert_cmpint(vhdx_space_map_end(s->space), ==, 9 * MiB);
    map_free(s, 6, 3);
    g_assert_cmpint(vhdx_space_map_end(s->space), ==, 4 * MiB);
    map_free(s, 1, 3);
    g_assert_cmpint(vhdx_space_map_end(s->space), ==, MiB);
    g_assert_cmpint(map_take(s, 3, 0, 10), ==, 1);
    g_assert_cmpint(vhdx_space_map_end(s->space), ==, 4 * MiB);
    state_free(s);
}

/* What is reached is used; nothing gets lost where the map gets larger. */
static void test_growth(void)
{
    static const uint64_t ends[] = {
        11, 19, 20, 21, 40, 41, 63, 64, 65, 127, 128, 129, 1000, 100000
    };
    BDRVVHDXState *s = state_new(10 * MiB, 1);
    uint64_t end = 10;

    map_free(s, 3, 4);
    map_free(s, 9, 1);
    for (size_t i = 0; i < G_N_ELEMENTS(ends); i++) {
        vhdx_space_map_reach(s->space, ends[i] * MiB);
        g_assert_cmpint(s->space->end, ==, ends[i] * MiB);
        g_assert_cmpint(s->space->used_bits, >=, ends[i]);
        check_run(s, 3, 4, false);
        g_assert_false(is_used(s, 9));
        for (uint64_t j = end; j < ends[i]; j++) {
            g_assert_true(is_used(s, j));
        }
        for (uint64_t j = ends[i]; j < s->space->used_bits; j++) {
            g_assert_false(is_used(s, j));
        }
        end = ends[i];

        /* It ends there already. */
        vhdx_space_map_reach(s->space, end * MiB);
        vhdx_space_map_reach(s->space, MiB);
        g_assert_cmpint(s->space->end, ==, end * MiB);
        check_run(s, 3, 4, false);
    }
    state_free(s);
}

/* A map gets larger seldom, not with each block. */
static void test_growth_steps(void)
{
    BDRVVHDXState *s = state_new(10 * MiB, 1);
    uint64_t bits = 0;
    int steps = 0;

    map_free(s, 3, 1);
    for (uint64_t end = 11; end < 100000; end++) {
        vhdx_space_map_reach(s->space, end * MiB);
        steps += s->space->used_bits != bits;
        bits = s->space->used_bits;
    }
    g_assert_cmpint(steps, <=, 15);
    state_free(s);
}

/* From where to where places are looked for */
static void test_bounds(void)
{
    BDRVVHDXState *s = state_new(100 * MiB, 1);

    map_free(s, 10, 5);
    map_free(s, 20, 6);
    map_free(s, 98, 2);

    /* too long for the first; not all of it below the limit */
    g_assert_cmpint(map_take(s, 7, 0, 100), ==, 0);
    g_assert_cmpint(map_take(s, 6, 0, 25), ==, 0);
    g_assert_cmpint(map_take(s, 6, 21, 100), ==, 0);
    g_assert_cmpint(map_take(s, 5, 0, 14), ==, 0);
    g_assert_cmpint(map_take(s, 3, 98, 100), ==, 0);
    g_assert_cmpint(map_take(s, 1, 50, 98), ==, 0);
    g_assert_cmpint(map_take(s, 1, 100, 100), ==, 0);
    g_assert_cmpint(map_take(s, 1, 60, 50), ==, 0);
    check_run(s, 10, 5, false);
    check_run(s, 20, 6, false);

    /* just fits in */
    g_assert_cmpint(map_take(s, 6, 0, 26), ==, 20);
    check_run(s, 10, 5, false);
    g_assert_cmpint(map_take(s, 2, 12, 14), ==, 12);
    g_assert_cmpint(map_take(s, 2, 0, 100), ==, 10);
    g_assert_cmpint(map_take(s, 2, 0, 100), ==, 98);
    g_assert_cmpint(map_take(s, 1, 0, 100), ==, 14);
    g_assert_cmpint(map_take(s, 1, 0, 100), ==, 0);
    state_free(s);
}

/* Nothing is given out that the file does not have all of. */
static void test_file_size(void)
{
    BDRVVHDXState *s = state_new(100 * MiB, 1);

    map_free(s, 50, 10);
    vhdx_file_set_size(s, 50 * MiB);
    g_assert_cmpint(map_take(s, 1, 0, 100), ==, 0);
    vhdx_file_set_size(s, 51 * MiB - 1);
    g_assert_cmpint(map_take(s, 1, 0, 100), ==, 0);
    vhdx_file_set_size(s, 51 * MiB);
    g_assert_cmpint(map_take(s, 2, 0, 100), ==, 0);
    g_assert_cmpint(map_take(s, 1, 0, 100), ==, 50);
    vhdx_file_set_size(s, 53 * MiB + 512);
    g_assert_cmpint(map_take(s, 3, 0, 100), ==, 0);
    g_assert_cmpint(map_take(s, 2, 0, 100), ==, 51);
    g_assert_cmpint(map_take(s, 1, 0, 100), ==, 0);
    state_free(s);
}

/* While a map is being made nothing is taken by the old one. */
static void test_scanning(void)
{
    BDRVVHDXState *s = state_new(100 * MiB, 1);

    map_free(s, 50, 10);
    s->space->scanning = true;
    g_assert_cmpint(map_take(s, 1, 0, 100), ==, 0);
    check_run(s, 50, 10, false);
    map_free(s, 60, 1);
    vhdx_space_map_reach(s->space, 101 * MiB);
    s->space->scanning = false;
    g_assert_cmpint(map_take(s, 11, 0, 100), ==, 50);
    state_free(s);
}

/*
 * The hint promises that no block fits in before.  A gap before what gets free
 * may make up one with it, but no longer one than what a block lacks.
 */
static void test_hint(void)
{
    BDRVVHDXState *s = state_new(100 * MiB, 4);

    map_free(s, 50, 3);
    s->space->hint = 100;
    map_free(s, 80, 4);
    g_assert_cmpint(s->space->hint, <=, 77);
    g_assert_cmpint(s->space->hint, >=, 76);
    s->space->hint = 100;
    map_free(s, 53, 1);
    g_assert_cmpint(s->space->hint, <=, 50);
    g_assert_cmpint(map_take(s, 4, s->space->hint, 100), ==, 50);
    s->space->hint = 10;
    map_free(s, 70, 4);
    g_assert_cmpint(s->space->hint, ==, 10);
    /* A block does not fit in before the start of the file. */
    map_free(s, 1, 1);
    g_assert_cmpint(s->space->hint, ==, 0);
    state_free(s);
}

/* -- What the host is to have back -- */

static void check_punch(BDRVVHDXState *s, uint64_t first, uint64_t mibs)
{
    for (uint64_t i = 0; i < 300; i++) {
        g_assert_cmpint(is_punched(s, i), ==, i >= first && i < first + mibs);
    }
}

static void test_punch(void)
{
    BDRVVHDXState *s = state_new(100 * MiB, 1);
    VHDXSpace *sp = s->space;

    map_free(s, 40, 30);
    g_assert_cmpint(sp->punch_from, ==, UINT64_MAX);
    map_punch(s, 50, 10);
    check_punch(s, 50, 10);
    g_assert_cmpint(sp->punch_from, ==, 50);
    map_punch(s, 60, 10);
    check_punch(s, 50, 20);
    g_assert_cmpint(sp->punch_from, ==, 50);
    map_punch(s, 40, 1);
    g_assert_cmpint(sp->punch_from, ==, 40);

    /* parts of it, and more than there is */
    vhdx_space_map_unpunch(sp, 40 * MiB, 50 * MiB);
    check_punch(s, 50, 20);
    vhdx_space_map_unpunch(sp, 50 * MiB, 50 * MiB);
    vhdx_space_map_unpunch(sp, 60 * MiB, 55 * MiB);
    vhdx_space_map_unpunch(sp, 200 * MiB, UINT64_MAX);
    check_punch(s, 50, 20);
    vhdx_space_map_unpunch(sp, 50 * MiB, 51 * MiB);
    check_punch(s, 51, 19);
    vhdx_space_map_unpunch(sp, 69 * MiB, UINT64_MAX);
    check_punch(s, 51, 18);
    g_assert_cmpint(sp->punch_from, <=, 51);

    /* What is taken is not the host's. */
    g_assert_cmpint(map_take(s, 5, 51, 100), ==, 51);
    check_punch(s, 56, 13);
    g_assert_cmpint(map_take(s, 1, 60, 100), ==, 60);
    g_assert_false(is_punched(s, 60));
    g_assert_true(is_punched(s, 59));
    g_assert_true(is_punched(s, 61));
    state_free(s);
}

/*
 * What was to be punched at the end is somebody's who gets it: the file may
 * have been longer than it was cut to.
 */
static void test_punch_end(void)
{
    BDRVVHDXState *s = state_new(100 * MiB, 1);

    map_free(s, 80, 20);
    map_punch(s, 80, 20);
    s->space->end = 85 * MiB;
    vhdx_space_map_reach(s->space, 90 * MiB);
    for (uint64_t i = 80; i < 100; i++) {
        g_assert_cmpint(is_punched(s, i), ==, i < 85 || i >= 90);
    }
    state_free(s);
}

/* What is to be punched stays so where the map gets larger. */
static void test_punch_growth(void)
{
    BDRVVHDXState *s = state_new(100 * MiB, 1);

    map_free(s, 40, 30);
    map_punch(s, 40, 30);
    vhdx_space_map_reach(s->space, 300 * MiB);
    check_punch(s, 40, 30);
    map_free(s, 250, 20);
    check_punch(s, 40, 30);
    map_punch(s, 250, 20);
    for (uint64_t i = 0; i < 300; i++) {
        g_assert_cmpint(is_punched(s, i), ==,
                        (i >= 40 && i < 70) || (i >= 250 && i < 270));
    }
    g_assert_cmpint(s->space->punch_from, ==, 40);
    state_free(s);
}

/* Behind @free_end all that is free has been punched: what is taken is not. */
static void test_free_end(void)
{
    BDRVVHDXState *s = state_new(100 * MiB, 1);

    map_free(s, 10, 30);
    g_assert_cmpint(map_take(s, 2, 0, 100), ==, 10);
    g_assert_cmpint(s->space->free_end, ==, UINT64_MAX);
    s->space->free_end = 15 * MiB;
    g_assert_cmpint(map_take(s, 3, 0, 100), ==, 12);
    g_assert_cmpint(s->space->free_end, ==, 15 * MiB);
    g_assert_cmpint(map_take(s, 1, 0, 100), ==, 15);
    g_assert_cmpint(s->space->free_end, ==, 16 * MiB);
    g_assert_cmpint(map_take(s, 3, 30, 100), ==, 30);
    g_assert_cmpint(s->space->free_end, ==, 33 * MiB);
    state_free(s);
}

/* -- By chance -- */

#define MODEL_MIBS  1000

typedef struct Model {
    bool used[MODEL_MIBS];
    bool punch[MODEL_MIBS];
    uint64_t end;                   /* MiB */
    uint64_t size;                  /* of the file, bytes */
} Model;

static void model_set(bool *map, uint64_t first, uint64_t end, bool value)
{
    for (uint64_t i = first; i < MIN(end, MODEL_MIBS); i++) {
        map[i] = value;
    }
}

static uint64_t model_take(Model *m, uint64_t mibs, uint64_t from,
                           uint64_t limit)
{
    uint64_t run = 0;

    for (uint64_t i = from; i < limit && (i + 1) * MiB <= m->size; i++) {
        run = m->used[i] ? 0 : run + 1;
        if (run == mibs) {
            model_set(m->used, i + 1 - mibs, i + 1, true);
            model_set(m->punch, i + 1 - mibs, i + 1, false);
            return i + 1 - mibs;
        }
    }
    return 0;
}

static void check_model(BDRVVHDXState *s, const Model *m, uint64_t block_mibs)
{
    VHDXSpace *sp = s->space;
    uint64_t last = 0, run = 0;

    g_assert_cmpint(sp->end, ==, m->end * MiB);
    for (uint64_t i = 0; i < m->end; i++) {
        g_assert_cmpint(is_used(s, i), ==, m->used[i]);
        last = m->used[i] ? i : last;
        run = m->used[i] ? 0 : run + 1;
        if (run == block_mibs) {
            g_assert_cmpint(sp->hint, <=, i + 1 - run);
            run--;
        }
    }
    for (uint64_t i = 0; i < MODEL_MIBS; i++) {
        g_assert_cmpint(is_punched(s, i), ==, m->punch[i]);
        g_assert_true(!m->punch[i] || sp->punch_from <= i);
    }
    g_assert_cmpint(vhdx_space_map_end(sp), ==, (last + 1) * MiB);
}

/* A run within [1, @end) of no more than @most MiBs */
static void random_run(GRand *rand, uint64_t end, uint64_t most,
                       uint64_t *first, uint64_t *mibs)
{
    *first = g_rand_int_range(rand, 1, end);
    *mibs = g_rand_int_range(rand, 1, MIN(end - *first, most) + 1);
}

static void random_step(BDRVVHDXState *s, Model *m, GRand *rand,
                        uint64_t block_mibs)
{
    VHDXSpace *sp = s->space;
    uint64_t first, mibs, from, limit;

    random_run(rand, m->end, 20, &first, &mibs);
    switch (g_rand_int_range(rand, 0, 14)) {
    case 0:
        if (m->end < MODEL_MIBS - 20 && !g_rand_int_range(rand, 0, 3)) {
            vhdx_space_map_reach(sp, (m->end + mibs) * MiB);
            model_set(m->used, m->end, m->end + mibs, true);
            m->end += mibs;
        }
        break;
    case 1:
        m->size = g_rand_int_range(rand, 0, MODEL_MIBS) * (uint64_t)MiB +
                  g_rand_int_range(rand, 0, 2) * (MiB - 1);
        vhdx_file_set_size(s, m->size);
        break;
    case 2:
        m->size = m->end * MiB;
        vhdx_file_set_size(s, m->size);
        break;
    case 3 ... 6:
        map_free(s, first, mibs);
        model_set(m->used, first, first + mibs, false);
        break;
    case 7:
        /* Only what is free is given back. */
        if (!m->used[first]) {
            map_punch(s, first, 1);
            m->punch[first] = true;
        }
        break;
    case 8:
        vhdx_space_map_unpunch(sp, first * MiB, (first + mibs) * MiB);
        model_set(m->punch, first, first + mibs, false);
        break;
    case 9 ... 10:
        from = g_rand_int_range(rand, 0, m->end);
        limit = g_rand_int_range(rand, 0, m->end + 1);
        g_assert_cmpint(map_take(s, mibs, from, limit), ==,
                        model_take(m, mibs, from, limit));
        break;
    default:
        /* a block, as all of them are taken */
        from = sp->hint;
        first = map_take(s, block_mibs, from, m->end);
        g_assert_cmpint(first, ==, model_take(m, block_mibs, from, m->end));
        if (first || m->size >= m->end * MiB) {
            sp->hint = first ? first + block_mibs : m->end;
        }
        break;
    }
    check_model(s, m, block_mibs);
}

static void test_random(void)
{
    static const uint64_t block_mibs[] = { 1, 2, 8, 16 };

    for (int seed = 0; seed < 12; seed++) {
        uint64_t mibs = block_mibs[seed % 4];
        g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
        g_autofree Model *m = g_new0(Model, 1);
        BDRVVHDXState *s;

        m->end = 5 + seed * 10;
        m->size = m->end * MiB;
        model_set(m->used, 0, m->end, true);
        s = state_new(m->size, mibs);
        map_free(s, 2, 1);
        m->used[2] = false;
        for (int i = 0; i < 3000; i++) {
            random_step(s, m, rand, mibs);
        }
        g_assert_cmpint(m->end, >, 500);
        state_free(s);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/space-map/none", test_none);
    g_test_add_func("/vhdx/space-map/too-long", test_too_long);
    g_test_add_func("/vhdx/space-map/end", test_end);
    g_test_add_func("/vhdx/space-map/growth", test_growth);
    g_test_add_func("/vhdx/space-map/growth-steps", test_growth_steps);
    g_test_add_func("/vhdx/space-map/bounds", test_bounds);
    g_test_add_func("/vhdx/space-map/file-size", test_file_size);
    g_test_add_func("/vhdx/space-map/scanning", test_scanning);
    g_test_add_func("/vhdx/space-map/hint", test_hint);
    g_test_add_func("/vhdx/space-map/punch", test_punch);
    g_test_add_func("/vhdx/space-map/punch-end", test_punch_end);
    g_test_add_func("/vhdx/space-map/punch-growth", test_punch_growth);
    g_test_add_func("/vhdx/space-map/free-end", test_free_end);
    g_test_add_func("/vhdx/space-map/random", test_random);

    return g_test_run();
}
