# The phrasebook, in Python: what a coroutine of Tornado or asyncio can be
# asked to do, a function a phrase. phrasebook.rs has the same phrases in Rust,
# in the same order, and prints the same lines. Run one of them, or all:
#
#     pip install tornado
#     python3 phrasebook.py join
#     python3 phrasebook.py
#
# Where the languages differ, the line says so: `python: goes on` here,
# `rust: dropped` there. Python 3.9 and Tornado 6.2 will do.

import asyncio
import contextvars
import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from tornado import gen, locks, queues, web
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets

# What the log was told. By default, that goes to stderr with a traceback.
LOG = []


class Log(logging.Handler):

    def emit(self, record):
        error = record.exc_info and record.exc_info[1]
        LOG.append(str(error or record.getMessage()))


def logged():
    said = ', '.join(LOG) or 'nothing'
    LOG.clear()
    return said


def new_future():
    return asyncio.get_running_loop().create_future()


# Late: it can't end before `go` is set. Then `fate` has what became of it.
async def late(go, fate):
    try:
        await go.wait()
        fate.set_result('goes on')
        return 'late'
    except asyncio.CancelledError:
        fate.set_result('cancelled')
        raise


# ----- one at a time ---------------------------------------------------------

def core(remote_ip):
    return 'msg to client ' + remote_ip


@gen.coroutine
def post(executor):
    res = yield executor.submit(core, remote_ip='127.0.0.1')
    return res


async def submit():
    # A set: of answers that are the same, one is left.
    loop, ip = IOLoop.current(), '127.0.0.1'
    with ThreadPoolExecutor(max_workers=10) as executor:
        answers = {
            await post(executor),
            await loop.run_in_executor(executor, core, ip),
            await asyncio.to_thread(core, remote_ip=ip),
        }
    print('submit:', *answers)


@gen.coroutine
def decorated(begun):
    begun.append('the decorated one')
    yield gen.moment


async def undecorated(begun):
    begun.append('the async one')


async def call():
    begun = ['nothing']
    first, second = decorated(begun), undecorated(begun)
    print('call: begun without an await, python:', begun[-1])
    await first
    await second
    print('call: begun when awaited:', begun[-1])


async def sleep():
    asleep = asyncio.Event()

    async def sleeper():
        asleep.set()
        await asyncio.sleep(3600)

    hour = asyncio.create_task(sleeper())
    await asleep.wait()
    began = time.monotonic()
    await gen.sleep(0.01)
    enough = time.monotonic() - began >= 0.01
    print('sleep:', 'long enough' if enough else 'too short')
    print('sleep: the other', 'is done' if hour.done() else 'sleeps on')
    hour.cancel()


async def fails():
    raise ValueError('broken')


async def passes_on():
    await fails()
    return 'not reached'


async def bug():
    raise IndexError('a bug')


async def error():
    try:
        await passes_on()
    except ValueError as why:
        print('error: the caller gets:', why)
    task = asyncio.create_task(passes_on())
    try:
        await task
    except ValueError as why:
        print('error: who awaits the task gets:', why)
    task = asyncio.create_task(bug())
    try:
        await task
    except Exception as why:
        print('error: a bug is, python: an', type(why).__name__)
    print('error: the log has, python:', logged())


# ----- many at a time --------------------------------------------------------

async def a(met):
    await met.wait()
    return 'a'


async def b(met):
    met.set()
    return 'b'


@gen.coroutine
def both():
    met = asyncio.Event()
    results = yield [a(met), b(met)]
    return results


async def join():
    met = asyncio.Event()
    results = [await both(), await asyncio.gather(a(met), b(met))]
    print('join:', *{' and '.join(names) for names in results})


async def fails_early(failed):
    failed.set()
    raise ValueError('early')


async def fails_late(failed):
    await failed.wait()
    raise ValueError('late')


@gen.coroutine
def all_of_them():
    failed = asyncio.Event()
    yield [fails_late(failed), fails_early(failed)]


async def try_join():
    try:
        await all_of_them()
    except ValueError as why:
        print('try_join: all have ended, the first in the list:', why)
    print('try_join: the other error, python: is logged:', logged())

    go, fate = asyncio.Event(), new_future()
    both = asyncio.gather(late(go, fate), fails_early(asyncio.Event()))
    try:
        await asyncio.wait_for(both, timeout=3600)
    except ValueError as why:
        print('try_join: not all have ended, the first in time:', why)
    go.set()
    print('try_join: what has not ended, python:', await fate)


async def as_finished():
    gates = {name: asyncio.Event() for name in 'abc'}

    async def job(name):
        await gates[name].wait()
        return name

    results = asyncio.as_completed([job(name) for name in 'abc'])
    for name in 'cab':
        gates[name].set()
        print('as_finished:', await next(results))


async def in_order():
    gates = {name: asyncio.Event() for name in 'abc'}
    ended = asyncio.Queue()

    async def job(name):
        await gates[name].wait()
        await ended.put(name)
        return name

    jobs = asyncio.gather(*[job(name) for name in 'abc'])
    for name in 'cab':
        gates[name].set()
        print('in_order: ended:', await ended.get())
    print('in_order: results:', *await jobs)


async def at_most():
    limit, gate = asyncio.Semaphore(2), asyncio.Event()
    entered, inside, peak = asyncio.Queue(), 0, 0

    async def job():
        nonlocal inside, peak
        async with limit:
            inside += 1
            peak = max(peak, inside)
            await entered.put(None)
            await gate.wait()
            inside -= 1

    jobs = asyncio.gather(*[job() for _ in range(5)])
    await entered.get()
    await entered.get()
    gate.set()
    await jobs
    print(f'at_most: 5 jobs, {peak} at once')


async def value():
    return 'a value'


async def first():
    go, fate = asyncio.Event(), new_future()
    tasks = {
        asyncio.create_task(value()),
        asyncio.create_task(late(go, fate)),
    }
    done, _ = await asyncio.wait(
        tasks, return_when=asyncio.FIRST_COMPLETED)
    print('first:', *[task.result() for task in done])
    go.set()
    print('first: the other one, python:', await fate)


@gen.coroutine
def late_too(go, fate):
    yield late(go, fate)


async def time_limit():
    go, fates = asyncio.Event(), [new_future(), new_future()]
    task = asyncio.create_task(late(go, fates[0]))
    try:
        await gen.with_timeout(timedelta(milliseconds=1), task)
    except gen.TimeoutError:
        print('time_limit: the task is late')
    try:
        await asyncio.wait_for(late_too(go, fates[1]), timeout=0.001)
    except asyncio.TimeoutError:
        go.set()
    print('time_limit: the late task:', *{await fate for fate in fates})

    go, fate = asyncio.Event(), new_future()
    try:
        await asyncio.wait_for(late(go, fate), timeout=0.001)
    except asyncio.TimeoutError:
        print('time_limit: the call is late')
    print('time_limit: the late call, python:', await fate)


async def background():
    IOLoop.current().spawn_callback(bug)
    print('background: we go on')
    # It is logged some turns of the loop after the coroutine has ended.
    while not LOG:
        await asyncio.sleep(0)
    print('background: of a bug, the log has:', logged())

    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    # Its error is logged when nobody can await it any more.
    del task
    print('background: of an error, the log has, python:', logged())

    async def starts_one():
        fate = new_future()
        task = asyncio.create_task(late(asyncio.Event(), fate))
        await asyncio.sleep(0)
        return task, fate

    _, fate = await asyncio.to_thread(asyncio.run, starts_one())
    print('background: at the end of the loop, python:', fate.result())


# ----- later -----------------------------------------------------------------

async def later():
    loop, called = IOLoop.current(), asyncio.Event()

    def callback(name):
        print('later: called:', name)
        called.set()

    loop.call_later(0.001, callback, 'the first')
    second = loop.call_later(3600, callback, 'the second')
    loop.remove_timeout(second)
    await called.wait()
    print('later: taken back:', 'yes' if second.cancelled() else 'no')


async def every():
    calls, order, sixth = [], [], asyncio.Event()

    async def work():
        calls.append(time.monotonic())
        order.append('begin')
        if len(calls) == 1:
            await asyncio.sleep(0.02)
        order.append('end')
        if len(calls) == 6:
            sixth.set()

    began = time.monotonic()
    clock = PeriodicCallback(work, 1)
    clock.start()
    await sixth.wait()
    clock.stop()
    # No time is an upper bound: a busy machine is late, and never early.
    waited = calls[0] - began > 0.0005
    missed = 'skipped' if calls[5] - calls[1] > 0.002 else 'made up for'
    print('every: first, python:', 'after a period' if waited else 'at once')
    print('every:', *order[:4])
    print('every: what it missed, python: is', missed)
    print('every: what it missed, the Tornado way: is', missed)

    bugs, third = [], asyncio.Event()

    async def breaks():
        bugs.append(len(bugs))
        if len(bugs) == 3:
            third.set()
        await bug()

    clock = PeriodicCallback(breaks, 1)
    clock.start()
    await third.wait()
    clock.stop()
    said = logged().split(', ')
    print(f'every: after {said[0]}, python: there are {len(said) - 1} more')


# ----- between tasks ---------------------------------------------------------

async def lock():
    mutex, order = locks.Lock(), []

    async def enter(name):
        async with mutex:
            await asyncio.sleep(0)
            order.append(name)

    async def leave():
        mutex.release()

    await mutex.acquire()
    await asyncio.gather(enter('a'), enter('b'), enter('c'), leave())
    print('lock:', *order)


async def event():
    ready = locks.Event()

    async def waiter(name):
        await ready.wait()
        return name

    async def setter():
        ready.set()

    woken = await asyncio.gather(waiter('a'), waiter('b'), setter())
    print('event: woken:', *woken[:2])
    print('event: need not wait:', await waiter('c'))


async def condition():
    changed, stock = locks.Condition(), 0

    async def take():
        nonlocal stock
        while stock < 3:
            await changed.wait()
        stock -= 3

    async def fill():
        nonlocal stock
        for _ in range(4):
            stock += 1
            changed.notify_all()
            await asyncio.sleep(0)

    await asyncio.gather(take(), fill())
    print(f'condition: 4 came, 3 were taken, {stock} is left')
    changed.notify()
    woken = await changed.wait(timeout=timedelta(milliseconds=1))
    print('condition: early, python:', 'kept' if woken else 'lost')


async def queue():
    jobs, total = queues.Queue(maxsize=2), 0
    jobs.put_nowait(1)
    jobs.put_nowait(2)
    try:
        jobs.put_nowait(3)
    except queues.QueueFull:
        print('queue: full, with', jobs.qsize())

    async def produce(numbers):
        for number in numbers:
            await jobs.put(number)

    async def consume():
        nonlocal total
        async for number in jobs:
            total += number
            jobs.task_done()

    consumers = [asyncio.create_task(consume()) for _ in range(2)]
    await asyncio.gather(produce([3, 4]), produce([5, 6]))
    await jobs.join()
    print('queue: the sum of 1 to 6:', total)
    for consumer in consumers:
        consumer.cancel()
    await asyncio.wait(consumers)
    cancelled = sum(consumer.cancelled() for consumer in consumers)
    print('queue: consumers, python:', cancelled, 'cancelled')


async def set_result():
    promise = new_future()

    def callback(result):
        promise.set_result(result)

    IOLoop.current().add_callback(callback, 42)
    print('set_result:', await promise)
    promise = new_future()
    try:
        await asyncio.wait_for(promise, timeout=0.001)
    except asyncio.TimeoutError:
        print('set_result: with nobody to set it, python: waits on')


# ----- threads ---------------------------------------------------------------

async def from_thread():
    loop, promise = IOLoop.current(), new_future()

    def blocking():
        loop.add_callback(promise.set_result, 'hello')

    thread = threading.Thread(target=blocking)
    thread.start()
    print('from_thread:', await promise)
    thread.join()


async def progress():
    loop, steps = IOLoop.current(), asyncio.Queue()

    def work():
        for step in 1, 2, 3:
            loop.add_callback(steps.put_nowait, step)
        loop.add_callback(steps.put_nowait, None)
        return 'done'

    job = loop.run_in_executor(None, work)
    step = await steps.get()
    while step is not None:
        print(f'progress: {step} of 3')
        step = await steps.get()
    print('progress:', await job)

    job = loop.run_in_executor(None, work)
    print('progress: with nobody to hear it, python:', await job)


async def where():
    return threading.get_ident()


async def run_sync():
    loop, here = asyncio.get_running_loop(), threading.get_ident()

    def own_loop():
        return asyncio.run(value())

    def this_loop():
        return asyncio.run_coroutine_threadsafe(where(), loop).result()

    print('run_sync: in a loop of its own:', await asyncio.to_thread(own_loop))
    on_loop = here == await asyncio.to_thread(this_loop)
    print('run_sync: by the loop there is, python: on the thread',
          'of the loop' if on_loop else 'that waits')
    coroutine = value()
    try:
        asyncio.run(coroutine)
    except RuntimeError:
        # Or Python warns that nobody has awaited it.
        coroutine.close()
        print('run_sync: on the loop: refused')


# ----- the end ---------------------------------------------------------------

async def cancel():
    begun = asyncio.Event()

    async def work():
        try:
            begun.set()
            await asyncio.sleep(3600)
        finally:
            print('cancel: cleans up')
            await asyncio.sleep(0)
            print('cancel: what must wait, python: waits in finally')

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print('cancel: who awaits the task is told')


class Connection:

    def __init__(self):
        self.state = 'closed'

    async def __aenter__(self):
        await asyncio.sleep(0)
        self.state = 'open'
        return self

    async def __aexit__(self, *error):
        await asyncio.sleep(0)
        self.state = 'closed'


async def async_with():
    connection = Connection()
    try:
        async with connection:
            print('async_with: inside:', connection.state)
            await fails()
    except ValueError as why:
        print(f'async_with: after {why}:', connection.state)

    entered = asyncio.Event()

    async def use():
        async with connection:
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await entered.wait()
    task.cancel()
    await asyncio.wait([task])
    print('async_with: cancelled inside, python:', connection.state)


async def count(cleaned):
    try:
        for number in 1, 2, 3:
            await asyncio.sleep(0)
            yield number
    finally:
        cleaned.set()


async def async_for():
    async for number in count(asyncio.Event()):
        print('async_for:', number)
    cleaned = asyncio.Event()
    async for number in count(cleaned):
        break
    at_once = cleaned.is_set()
    await cleaned.wait()
    print('async_for: left early, cleaned up, python:',
          'at once' if at_once else 'later')


USER = contextvars.ContextVar('user')


async def user():
    return USER.get('nobody')


async def context():
    token = USER.set('ada')
    print('context: in a call:', await user())
    print('context: in a task, python:', await asyncio.create_task(user()))
    print('context: on a thread, python:',
          await asyncio.to_thread(USER.get, 'nobody'))
    USER.reset(token)
    print('context: afterwards:', await user())


# ----- in a server -----------------------------------------------------------

def serve(handler, **settings):
    [socket] = bind_sockets(0, '127.0.0.1')
    server = HTTPServer(web.Application([('/', handler)], **settings))
    server.add_sockets([socket])
    return server, socket.getsockname()[1]


async def connect(port):
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    writer.write(b'GET / HTTP/1.1\r\nHost: localhost\r\n'
                 b'Connection: close\r\n\r\n')
    return reader, writer


async def leave(writer):
    writer.close()
    await writer.wait_closed()


class Visits(web.RequestHandler):

    async def get(self):
        self.settings['visits'] += 1
        self.write(f'visitor {self.settings["visits"]}')


async def shared():
    server, port = serve(Visits, visits=0)
    for _ in range(3):
        answer = await AsyncHTTPClient().fetch(f'http://127.0.0.1:{port}/')
        print('shared:', answer.body.decode())
    server.stop()


class Leaves(web.RequestHandler):

    async def get(self):
        self.settings['begun'].set()
        self.write(await late(self.settings['go'], self.settings['fate']))

    def on_connection_close(self):
        self.settings['go'].set()


async def client_leaves():
    begun, go, fate = asyncio.Event(), asyncio.Event(), new_future()
    server, port = serve(Leaves, begun=begun, go=go, fate=fate)
    _, writer = await connect(port)
    await begun.wait()
    print('client_leaves: the handler waits, its client leaves')
    await leave(writer)
    print('client_leaves: the handler, python:', await fate)
    server.stop()


async def fetch():
    begun, go, fate = asyncio.Event(), asyncio.Event(), new_future()
    server, port = serve(Leaves, begun=begun, go=go, fate=fate)
    heard = new_future()
    answer = AsyncHTTPClient().fetch(
        f'http://127.0.0.1:{port}/', streaming_callback=heard.set_result)
    await begun.wait()
    answer.cancel()
    go.set()
    said = (await heard).decode()
    print('fetch: given up, the handler, python: is heard:', said)
    server.stop()


class Stream(web.RequestHandler):

    async def get(self):
        try:
            while True:
                self.write(bytes(65536))
                await self.flush()
                self.settings['made'][0] += 65536
        except StreamClosedError as why:
            self.settings['fate'].set_result(type(why).__name__)


async def stream():
    made, fate = [0], new_future()
    server, port = serve(Stream, made=made, fate=fate)
    reader, writer = await connect(port)
    read = len(await reader.readexactly(1 << 20))
    print('stream: 1 MiB is read, and there is no end')
    waits = made[0] - read < 32 << 20
    print('stream:', 'waits for its client' if waits else 'runs ahead')
    await leave(writer)
    print('stream: the client leaves, python:', await fate)
    server.stop()


# ----- the program -----------------------------------------------------------

PHRASES = {phrase.__name__: phrase for phrase in [
    submit, call, sleep, error,
    join, try_join, as_finished, in_order, at_most, first, time_limit,
    background,
    later, every,
    lock, event, condition, queue, set_result,
    from_thread, progress, run_sync,
    cancel, async_with, async_for, context,
    shared, client_leaves, fetch, stream,
]}


def main(wanted):
    for name in wanted:
        if name not in PHRASES:
            names = ', '.join(PHRASES)
            print(f'no phrase {name!r}; there are: {names}', file=sys.stderr)
            return 2
    logging.getLogger().addHandler(Log())
    for name, phrase in PHRASES.items():
        if name in wanted or not wanted:
            asyncio.run(phrase())
    if LOG:
        print('no phrase asked for this log:', logged(), file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
