# Threaded Tornado, on today's Python 3 and Tornado 6.
#
# The program is from the blog post "Threaded Tornado": its names, its order
# and its constants. The post wrote it for Python 2; this is our own version.
# Run it with:
#
#     pip install tornado
#     python3 threaded_tornado.py

import time
import tornado.gen
import tornado.ioloop
import tornado.web
from concurrent.futures import ThreadPoolExecutor


# The core knows nothing of Tornado. Any blocking code can stand here.
class Core:

    def get(self, remote_ip):
        print('going to sleep', remote_ip)
        time.sleep(10)
        print('done sleeping', remote_ip)
        return 'msg to client ' + remote_ip


# One instance a request. It hands the request to the core and waits for the
# result without blocking the loop.
class MainHandler(tornado.web.RequestHandler):

    def initialize(self, executor, core, webserver):
        self._executor = executor
        self._core = core
        self._webserver = webserver

    @tornado.gen.coroutine
    def get(self, uri):
        ip = self.request.remote_ip
        # submit() queues the call for a worker thread; yield gives the loop
        # back until that thread has the result.
        res = yield self._executor.submit(self._core.get, remote_ip=ip)
        self.write(res)


class WebServer:

    def __init__(self, port=8888):
        self._port = port

    def start(self, core):
        # The dict is what Tornado passes to MainHandler.initialize.
        webapp = tornado.web.Application([
            (r'(/)', MainHandler, {
                'executor': ThreadPoolExecutor(max_workers=10),
                'core': core,
                'webserver': self,
            }),
        ])
        webapp.listen(self._port)
        tornado.ioloop.IOLoop.current().start()


# THE ENTRYPOINT
core = Core()
ws = WebServer()
ws.start(core)
