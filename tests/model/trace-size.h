/*
 * The log's model in the sizes of a real image, for trace.c: pages have the
 * entries of many blocks, a place is a MiB of the file, a slot of the ring has
 * an entry of any length.  What is in sectors is not followed.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_TRACE_SIZE_H
#define MODEL_TRACE_SIZE_H

enum {
    BLOCKS = 2048,      /* pages of metadata */
    SECTORS = 1,
    PLACES = 32768,
    GUESTS = 4096,      /* operations on a MiB, which are under way */
    ALLOCS = 256,
    SLOTS = 257,
    WRITTEN = 2,
};

typedef uint32_t Count;

#define VALUE(n) ((void)(n), (Values)1)

/* The page that has the BAT entry @index, and the place that it tells */
static struct Page *page_of(int index);
static void page_set(int index, int entry);

#define PAGE_SET(block, entry) page_set(block, entry)
#define PAGE_OF(block) page_of(block)

#endif
