import helper


class Plugin:
    def call(self, method, payload):
        if method == "lazy":
            import lazy_a

            return lazy_a.NAME.encode()
        return helper.name().encode() + b" in twin_a"


def create_plugin():
    return Plugin()
