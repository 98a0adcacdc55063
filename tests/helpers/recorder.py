"""A tracker that remembers what it was told."""


class Recorder:
    def __init__(self, config, workdir):
        self.said = []

    def scalars(self, step, values):
        self.said.append((step, dict(values)))

    def picture(self, step, name, image):
        self.said.append((step, name, image.shape))

    def close(self):
        self.said.append("closed")


def nothing(config, workdir):
    return []
