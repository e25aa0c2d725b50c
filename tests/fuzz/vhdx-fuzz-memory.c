/*
 * VHDX fuzz target: how much memory the driver has
 *
 * The sanitizer tells of each allocation.  What counts is what is allocated
 * and not freed again, at its peak.  Stacks of coroutines are not among it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include <sanitizer/allocator_interface.h>
#include "vhdx-fuzz.h"

static int64_t live;                /* bytes */
static int64_t limit;               /* bytes, while @watched */
static const CrashImage *watched;   /* NULL: anything goes */

/* The hooks have volatile in their types. */
static void memory_taken(const volatile void *ptr, size_t bytes)
{
    const CrashImage *img = watched;

    qatomic_add(&live, bytes);
    if (img && live > limit && live > limit + image_memory(img)) {
        watched = NULL;
        fuzz_fail("the driver has %" PRId64 " bytes more than it may, after "
                  "an allocation of %zu", live - limit, bytes);
    }
}

/* As above: volatile is the sanitizer's. */
static void memory_given_back(const volatile void *ptr)
{
    qatomic_sub(&live, __sanitizer_get_allocated_size((const void *)ptr));
}

void memory_init(void)
{
    __sanitizer_install_malloc_and_free_hooks(memory_taken,
                                              memory_given_back);
}

/* Whether there is what may be the head of dirty bitmaps. */
static bool has_bitmaps(const CrashImage *img)
{
    CrashImageIter iter;
    CrashPage *page;

    image_iter_init(&iter, img);
    while ((page = image_iter_next(&iter))) {
        if (!memcmp(page->data, "qvhdxbmp", 8)) {
            return true;
        }
    }
    return false;
}

void memory_watch(const CrashImage *img)
{
    limit = live + FUZZ_CACHE + FUZZ_MEMORY +
            (has_bitmaps(img) ? FUZZ_DIRTY : 0) -
            image_memory(img);
    watched = img;
}

void memory_unwatch(void)
{
    watched = NULL;
}
