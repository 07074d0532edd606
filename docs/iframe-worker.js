// The search runs in a worker, and browsers start none for a page that was opened as a file. Then a hidden frame does
// the same. (Material's offline plugin would fetch such a script from elsewhere; the name tells it that there is one.)
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(source) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      this.inside = new Promise(done => {
        frame.onload = () => {
          frame.onload = null
          const inside = frame.contentWindow
          inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}))
          const script = inside.document.createElement("script")
          script.onload = () => done(inside)
          script.src = source
          inside.document.head.append(script)
        }
      })
      document.body.append(frame)
    }

    postMessage(data) {
      this.inside.then(inside => inside.dispatchEvent(new MessageEvent("message", {data})))
    }
  }
}
