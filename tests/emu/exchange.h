/* What the blocks of a launch see of each other's stores: as little as a GPU may show them. A plain
 * store is seen by others once its thread, or one that met it at a barrier since, has passed a
 * fence, and by a block only when one of its own threads has passed one, too. An atomic is seen by
 * all at once, and a launch's end shows everything. Knows nothing of how threads take turns. */
#ifndef Y5_EXCHANGE_H
#define Y5_EXCHANGE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <vector>

namespace y5_emulator {

class exchange {
  public:
    /* A launch begins. No memory: nothing is exchanged, and all of this does nothing. */
    void begin(void *memory, size_t bytes, size_t blocks, size_t threads)
    {
        words = (uint32_t *)memory;
        count = memory != NULL ? bytes / sizeof(uint32_t) : 0;
        common.assign(words, words + count);
        views.assign(count > 0 ? blocks : 0, {common, std::vector<stores>(threads + 1)});
        own = NULL;
    }

    void end()
    {
        for (view &each : views) {
            for (stores &late : each.unseen) {
                show(&late);
            }
        }
        std::copy(common.begin(), common.end(), words);
        begin(NULL, 0, 0, 0);
    }

    bool is_on() const
    {
        return count > 0;
    }

    bool holds(const void *address) const
    {
        return address >= words && address < words + count;
    }

    /* Threads of this block run from now on; what it sees stands in memory. */
    void enter(size_t block)
    {
        if (is_on()) {
            own = &views[block];
            std::copy(own->words.begin(), own->words.end(), words);
        }
    }

    /* What was stored since the last note is this thread's. */
    void note(size_t thread)
    {
        if (!is_on() || memcmp(words, own->words.data(), count * sizeof(uint32_t)) == 0) {
            return;
        }
        for (size_t at = 0; at < count; at++) {
            if (words[at] != own->words[at]) {
                own->words[at] = words[at];
                own->unseen[thread].push_back({at, words[at]});
            }
        }
    }

    /* The block's threads have met at a barrier: what one has stored, the others' fences show. */
    void meet()
    {
        for (size_t thread = 0; is_on() && thread + 1 < own->unseen.size(); thread++) {
            stores *late = &own->unseen[thread];
            own->unseen.back().insert(own->unseen.back().end(), late->begin(), late->end());
            late->clear();
        }
    }

    void fence(size_t thread)
    {
        note(thread);
        show(&own->unseen.back());
        show(&own->unseen[thread]);
        own->words = common;
        for (const stores &late : own->unseen) {
            for (const store &one : late) {
                own->words[one.at] = one.value;
            }
        }
        std::copy(own->words.begin(), own->words.end(), words);
    }

    /* Around an atomic: in between, what all see is in memory. */
    void begin_atomic(const void *address, size_t bytes, size_t thread)
    {
        note(thread);
        size_t first = (size_t)((const uint32_t *)address - words);
        for (size_t at = first; at < first + bytes / sizeof(uint32_t); at++) {
            show_word(&own->unseen.back(), at);
            show_word(&own->unseen[thread], at);
            words[at] = common[at];
        }
    }

    void end_atomic(const void *address, size_t bytes)
    {
        size_t first = (size_t)((const uint32_t *)address - words);
        for (size_t at = first; at < first + bytes / sizeof(uint32_t); at++) {
            common[at] = own->words[at] = words[at];
        }
    }

  private:
    struct store {
        size_t at;
        uint32_t value;
    };
    typedef std::vector<store> stores; /* in order */
    struct view {
        std::vector<uint32_t> words; /* what the block sees */
        std::vector<stores> unseen;  /* of each thread; behind them, of all that have met */
    };

    void show(stores *late)
    {
        for (const store &one : *late) {
            common[one.at] = one.value;
        }
        late->clear();
    }

    void show_word(stores *late, size_t at)
    {
        auto is_it = [at](const store &one) { return one.at == at; };
        for (const store &one : *late) {
            common[at] = is_it(one) ? one.value : common[at];
        }
        late->erase(std::remove_if(late->begin(), late->end(), is_it), late->end());
    }

    uint32_t *words = NULL;
    size_t count = 0;
    std::vector<uint32_t> common; /* what a fence shows */
    std::vector<view> views;      /* of each block */
    view *own = NULL;             /* of the block that runs */
};

} // namespace y5_emulator

#endif
