# Atelier in a container:
#   docker build -t atelier . && docker run -p 127.0.0.1:7860:7860 -v atelier:/home/atelier/.atelier atelier
FROM python:3.11-slim

# The number that Hugging Face Spaces use too.
RUN useradd --create-home --uid 1000 atelier
WORKDIR /app

# torch first and alone: see requirements.txt. Before the code, so that a change of code does not
# install it again.
COPY requirements.txt .
RUN pip install --no-cache-dir "$(grep -o '^torch==[^ ]*' requirements.txt)"
RUN pip install --no-cache-dir -r requirements.txt

COPY --chown=atelier . .
USER atelier

# Inside, the page listens on every address, because only a port of the container's own address
# can be published. Who reaches it is decided by `docker run -p`: keep the 127.0.0.1 there.
ENV HOST=0.0.0.0 PORT=7860 PYTHONUNBUFFERED=1 STUDIO_HOME=/home/atelier/.atelier

# The embedded model comes with the image: the first start needs no network.
RUN python -m studio.worker setup

# Runs, models, recipes and uploads. After the setup: what is written to a volume later in the
# build is lost.
VOLUME /home/atelier/.atelier
EXPOSE 7860
CMD ["python", "app.py"]
